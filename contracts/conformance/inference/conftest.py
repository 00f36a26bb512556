# SPDX-License-Identifier: Apache-2.0
"""Which server is asked, and by which clients; a model that it does not hold skips its tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import grpc
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from contracts.conformance.inference.asking import outcome
from contracts.conformance.inference.models import models
from contracts.conformance.inference.ours import Target, our_service

from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.oip import grpc_predict_v2_pb2_grpc as oip_grpc

CALL_TIMEOUT_S = 15.0
# How our service may listen; another one does as it does.
OUR_DOORS = ("native", "grpcio")
LACKING = pytest.StashKey[list[str]]()
MESSAGE_BYTES_MAX = 64 * 1024**2


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--addr", default="", help="HOST:PORT of a server's gRPC; ours when empty")
    parser.addoption("--rest-addr", default="", help="HOST:PORT of the same server's HTTP")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Both doors of ours are asked the same."""
    if "listening" in metafunc.fixturenames:
        doors = ("",) if metafunc.config.getoption("--addr") else OUR_DOORS
        metafunc.parametrize("listening", doors, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # tritonclient's protobuf stubs, aio and gevent warn under new Python versions.
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning"))
        item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))
        item.add_marker(
            pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
        )


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run in which every law was skipped shows nothing, and is not to look like a pass."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    told = {"passed", "failed", "error"} & set(reporter.stats) if reporter else set()
    if session.config.getoption("--addr") and exitstatus == pytest.ExitCode.OK and not told:
        reporter.write_line("Nothing was asked: the server holds none of the models (README).")
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    """In one place what the skipped tests say one by one."""
    if lacking := config.stash.get(LACKING, []):
        terminalreporter.section("models that the server lacks")
        terminalreporter.write_line(", ".join(lacking))
        terminalreporter.write_line("Their tests were skipped. How it gets them: README.md here.")


def lacking_of(address: str) -> list[str]:
    """The models of the suite that the server does not hold; ends the run where nobody answers."""
    with grpc.insecure_channel(address) as channel:
        stub = oip_grpc.GRPCInferenceServiceStub(channel)
        try:
            stub.ServerLive(oip.ServerLiveRequest(), timeout=CALL_TIMEOUT_S)
        except grpc.RpcError as err:
            told = f"{err.code().name}: {err.details()}"
            pytest.exit(f"ServerLive at {address} answers {told}", returncode=1)
        return [name for name in models() if not _ready(stub, name)]


def _ready(stub: oip_grpc.GRPCInferenceServiceStub, name: str) -> bool:
    ready: list[bool] = []
    request = oip.ModelReadyRequest(name=name)
    outcome(lambda: ready.append(stub.ModelReady(request, timeout=CALL_TIMEOUT_S).ready))
    return ready == [True]


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest, listening: str, tmp_path_factory) -> Iterator[Target]:
    address = request.config.getoption("--addr")
    if address:
        request.config.stash[LACKING] = lacking_of(address)
        yield Target(address, request.config.getoption("--rest-addr"))
        return
    bootstrap = request.getfixturevalue("kafka_server")
    folder = tmp_path_factory.mktemp("inference")
    with our_service(bootstrap, folder, models(), GRPC_DOOR=listening) as ours:
        yield ours


@pytest.fixture(scope="session")
def ours(request: pytest.FixtureRequest) -> bool:
    """Whether our own service is asked: reasons beside the codes are ours alone."""
    return not request.config.getoption("--addr")


@pytest.fixture(scope="session")
def channel(target: Target) -> Iterator[grpc.Channel]:
    options = [
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ]
    with grpc.insecure_channel(target.grpc, options=options) as opened:
        yield opened


@pytest.fixture(scope="session")
def stub(channel: grpc.Channel) -> oip_grpc.GRPCInferenceServiceStub:
    return oip_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture(scope="session")
def call(stub) -> Callable[..., object]:
    """`call("ModelReady", request)`: the answer, or grpc.RpcError."""

    def called(method: str, request, timeout_s: float = CALL_TIMEOUT_S):
        return getattr(stub, method)(request, timeout=timeout_s)

    return called


@pytest.fixture(scope="session")
def held(stub) -> Callable[[str], str]:
    """The name, when the server holds a model of it."""

    def checked(name: str) -> str:
        if not _ready(stub, name):
            pytest.skip(f"the server holds no model {name}")
        return name

    return checked


@pytest.fixture(scope="session")
def offered(call, ours) -> Callable[[str], None]:
    """Skips a test of an extension that the server does not advertise; ours has all to answer."""
    extensions = set(call("ServerMetadata", oip.ServerMetadataRequest()).extensions)

    def checked(extension: str) -> None:
        if not ours and extension not in extensions:
            pytest.skip(f"the server does not advertise {extension}")

    return checked


@pytest.fixture(scope="session")
def rest(target: Target) -> str:
    if not target.rest:
        pytest.skip("no --rest-addr")
    return target.rest


@pytest.fixture
def grpc_client(target: Target) -> Iterator[triton.InferenceServerClient]:
    with closing(triton.InferenceServerClient(target.grpc)) as client:
        yield client


@pytest.fixture
def http_client(rest: str) -> Iterator[triton_http.InferenceServerClient]:
    with closing(triton_http.InferenceServerClient(rest)) as client:
        yield client

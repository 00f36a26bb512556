# SPDX-License-Identifier: Apache-2.0
"""Inference as several processes behind one port: a parent and its workers, on a real Kafka.

The registry is a small gRPC server of the test, which counts its downloads.
"""

from __future__ import annotations

import json
import os
import re
import signal
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from hashlib import sha256
from http.client import HTTPConnection
from pathlib import Path
from threading import Event
from urllib.request import urlopen

import grpc
import numpy as np
import psutil
import pytest

from headrace import topics
from headrace.admin import create_topics, static_topics
from headrace.application import definition_json
from headrace.errors import NotFound
from headrace.local.ports import pick_ports
from headrace.local.process import Child
from headrace.local.service_process import service_process
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.oip import grpc_predict_v2_pb2_grpc as oip_grpc
from headrace.registry.v1 import registry_events_pb2 as registry_pb
from headrace.registry.v1 import registry_service_pb2 as artifact_pb
from headrace.registry.v1 import registry_service_pb2_grpc as artifact_grpc
from headrace_inference.testing import FEATURES, a_model, an_endpoint
from headrace_kit.auth import Guard
from headrace_kit.grpc_server import GrpcServer
from headrace_kit.kafka import KafkaPublisher, Message
from headrace_kit.testing import wait_until

pytestmark = pytest.mark.integration

CALL_TIMEOUT_S = 15.0
END_S_MAX = 15.0
# As many as leave no worker out, but once in 2^31 runs.
CONNECTIONS = 32
VERSION = 7


class Artifacts(artifact_grpc.ArtifactServiceServicer):
    """One model; what else this broker's rollouts name is unknown."""

    def __init__(self, model: bytes) -> None:
        self.model, self.downloads = model, 0
        self.digest = sha256(model).hexdigest()

    def DownloadArtifact(self, request, context):  # noqa: N802
        if request.digest != self.digest:
            raise NotFound("ARTIFACT_UNKNOWN", digest=request.digest)
        self.downloads += 1
        yield artifact_pb.DownloadArtifactResponse(chunk=self.model)


@pytest.fixture(scope="module")
def artifacts() -> Artifacts:
    return Artifacts(a_model(float(VERSION)))


@pytest.fixture(scope="module")
def registry(artifacts: Artifacts) -> Iterator[str]:
    """Its address."""
    server = GrpcServer(
        host="127.0.0.1",
        port=0,
        services=[(artifact_grpc.add_ArtifactServiceServicer_to_server, artifacts)],
        names=["headrace.registry.v1.ArtifactService"],
        guard=Guard("tests", None),
    )
    yield f"127.0.0.1:{server.start()}"
    server.stop(1.0)


@pytest.fixture(scope="module")
def endpoint(kafka_server: str, artifacts: Artifacts) -> str:
    """Defined and rolled out before anything starts."""
    name = f"shared-{uuid.uuid4().hex[:8]}"
    create_topics(kafka_server, static_topics())
    wanted = (topics.INFERENCE_REQUESTS, topics.INFERENCE_PREDICTIONS)
    create_topics(kafka_server, [(each.of(name), each) for each in wanted])
    served = registry_pb.ServedVersion(version=VERSION, digest=artifacts.digest, features=FEATURES)
    definition = registry_pb.Definition(
        kind="endpoint", name=name, version=1, spec_json=definition_json(an_endpoint(name))
    )
    rollout = registry_pb.Rollout(
        endpoint=name, model="m", generation=1, champion=served, change="test"
    )
    publisher = KafkaPublisher(kafka_server, client_id="registry-hand")
    for topic, key, message in (
        (topics.REGISTRY_DEFINITIONS.name, f"endpoint/{name}", definition),
        (topics.REGISTRY_ROLLOUTS.name, name, rollout),
    ):
        publisher.publish([Message(topic, key.encode(), message.SerializeToString())])
    publisher.close(5.0)
    return name


class Service:
    """A parent with its workers; the ports and the folder stay when it is started again."""

    def __init__(self, bootstrap: str, registry: str, folder: Path) -> None:
        self.grpc_port, self.http_port, self.rest_port = pick_ports(3)
        self._settings = {"KAFKA_BOOTSTRAP": bootstrap, "REGISTRY_ADDRESS": registry}
        self.folder = folder
        self.child: Child | None = None

    def start(self, *, processes: int = 2, wait: bool = True, **settings: str) -> Service:
        told = {
            **self._settings,
            "DATA_DIR": str(self.folder / "data"),
            "REST_PORT": str(self.rest_port),
            "PROCESSES": str(processes),
            **{name.upper(): value for name, value in settings.items()},
        }
        spec = service_process("inference", (self.grpc_port, self.http_port), told)
        self.child = Child(spec, self.folder / f"{uuid.uuid4().hex[:8]}.log", self.folder)
        if wait:
            self.child.wait_ready()
        return self

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.child.pid).children()

    def log(self) -> str:
        return self.child.log.read_text()

    def metrics(self) -> str:
        with urlopen(f"http://127.0.0.1:{self.http_port}/metrics", timeout=CALL_TIMEOUT_S) as told:
            return told.read().decode()

    def rows_by_worker(self, endpoint: str) -> dict[str, float]:
        told = (
            rf'^headrace_inference_rows_total{{endpoint="{endpoint}",[^}}]*worker="(\w+)"}} (.+)$'
        )
        return {who: float(rows) for who, rows in re.findall(told, self.metrics(), re.MULTILINE)}

    def ready(self) -> bool:
        return self.child.ready()

    def stop(self) -> None:
        if self.child is not None:
            self.child.stop()


class Caller:
    """One connection of its own, on which it goes on asking until it is told or refused."""

    def __init__(self, service: Service, endpoint: str) -> None:
        options = [
            # gRPC would share one connection between the channels of a process,
            ("grpc.use_local_subchannel_pool", 1),
            # and let calls wait for seconds before it looks again where it was refused.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 100),
        ]
        self._channel = grpc.insecure_channel(f"127.0.0.1:{service.grpc_port}", options)
        self._stub = oip_grpc.GRPCInferenceServiceStub(self._channel)
        self._endpoint, self.asked = endpoint, 0

    def ask(self, first: float = 1.0) -> oip.ModelInferResponse:
        request = oip.ModelInferRequest(model_name=self._endpoint)
        request.inputs.add(name="features", datatype="FP32", shape=[1, len(FEATURES)])
        request.raw_input_contents.append(np.full(len(FEATURES), first, "<f4").tobytes())
        return self._stub.ModelInfer(request, timeout=CALL_TIMEOUT_S)

    def rows_told(self) -> int:
        request = oip.ModelStatisticsRequest(name=self._endpoint)
        (told,) = self._stub.ModelStatistics(request, timeout=CALL_TIMEOUT_S).model_stats
        return told.inference_count

    def ask_until(self, done: Event) -> Counter:
        """How often each outcome was heard: `right`, `wrong`, or the status of the failure."""
        heard: Counter = Counter()
        while not done.is_set():
            self.asked += 1
            try:
                answer = self.ask(2.0)
            except grpc.RpcError as err:
                heard[err.code()] += 1
            else:
                (score,) = np.frombuffer(answer.raw_output_contents[0], "<f4").tolist()
                right = (str(VERSION), VERSION + 2.0) == (answer.model_version, score)
                heard["right" if right else "wrong"] += 1
        return heard

    def close(self) -> None:
        self._channel.close()


@pytest.fixture
def make_service(kafka_server, registry, tmp_path) -> Iterator[Callable[[], Service]]:
    made: list[Service] = []

    def make() -> Service:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Service(kafka_server, registry, folder))
        return made[-1]

    yield make
    for service in made:
        service.stop()


@pytest.fixture(scope="module")
def service(kafka_server, registry, endpoint, tmp_path_factory) -> Iterator[Service]:
    """Two workers, for the tests that do not end one."""
    made = Service(kafka_server, registry, tmp_path_factory.mktemp("inference")).start()
    yield made
    made.stop()


@pytest.fixture
def callers(endpoint):
    """`callers(service, n)`: so many, each with a connection of its own."""
    made: list[Caller] = []

    def make(service: Service, count: int = CONNECTIONS) -> list[Caller]:
        made.extend(Caller(service, endpoint) for _ in range(count))
        return made[-count:]

    yield make
    for caller in made:
        caller.close()


def at_work(pool: ThreadPoolExecutor, callers: list[Caller], done: Event) -> list[Future[Counter]]:
    return [pool.submit(caller.ask_until, done) for caller in callers]


@pytest.mark.parametrize("door", ["native", "grpcio"])
def test_connections_reach_every_worker_by_either_door(make_service, callers, endpoint, door):
    service = make_service().start(grpc_door=door)

    for caller in callers(service):
        assert str(VERSION) == caller.ask().model_version

    # An answer is counted just after it is sent.
    wait_until(lambda: CONNECTIONS == sum(service.rows_by_worker(endpoint).values()))
    assert {"1", "2"} == service.rows_by_worker(endpoint).keys()


def test_http_connections_reach_every_worker(service, endpoint):
    before = service.rows_by_worker(endpoint)
    features = {"name": "features", "datatype": "FP32", "shape": [1, len(FEATURES)]}
    body = json.dumps({"inputs": [{**features, "data": [2.0] * len(FEATURES)}]}).encode()
    for _ in range(CONNECTIONS):
        with closing(HTTPConnection("127.0.0.1", service.rest_port, CALL_TIMEOUT_S)) as http:
            http.request("POST", f"/v2/models/{endpoint}/infer", body)
            assert str(VERSION) == json.load(http.getresponse())["model_version"]

    after = service.rows_by_worker(endpoint)
    assert {"1", "2"} == {who for who in after if after[who] > before.get(who, 0.0)}


def test_every_worker_tells_the_statistics_of_all(service, callers, endpoint):
    asking = callers(service)
    for caller in asking:
        caller.ask()

    def told_alike():  # an answer is counted just after it is sent
        rows = sum(service.rows_by_worker(endpoint).values())
        return {rows} == {caller.rows_told() for caller in asking}

    wait_until(told_alike)


@pytest.mark.usefixtures("endpoint")
def test_workers_download_a_model_once(make_service, artifacts):
    before = artifacts.downloads

    service = make_service().start(processes=3)

    assert 1 == artifacts.downloads - before
    # What other tests rolled out on this broker is tried again and again.
    files = (service.folder / "data/models").glob(f"{artifacts.digest}*")
    assert [artifacts.digest] == [each.name for each in files]


def test_one_scrape_tells_of_all(service):
    lines = service.metrics().splitlines()

    told = [line for line in lines if line.startswith("process_resident_memory_bytes{")]
    assert {"parent", "1", "2"} == {re.search(r'worker="(\w+)"', line)[1] for line in told}
    assert 'headrace_inference_workers_ready_count{worker="parent"} 2.0' in lines
    types = [line for line in lines if line.startswith("# TYPE")]
    assert len(set(types)) == len(types)


def test_parent_is_small(service):
    mine = psutil.Process(service.child.pid).memory_info().rss
    assert mine < min(worker.memory_info().rss for worker in service.workers()) * 0.75


def test_killed_worker_takes_its_calls_alone_and_comes_back(make_service, callers, endpoint):
    service = make_service().start()
    killed = service.workers()[0]
    done = Event()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        try:
            asking = callers(service)
            working = at_work(pool, asking, done)
            wait_until(lambda: {"1", "2"} <= service.rows_by_worker(endpoint).keys())
            killed.suspend()
            before = [caller.asked for caller in asking]
            wait_until(lambda: any(c.asked > n + 20 for c, n in zip(asking, before, strict=True)))
            killed.kill()  # while each of its callers has a call there
            wait_until(lambda: not service.ready())
            wait_until(service.ready)
        finally:
            done.set()
        heard = [each.result(CALL_TIMEOUT_S) for each in working]

    failures = [{k: v for k, v in each.items() if k != "right"} for each in heard]
    assert {grpc.StatusCode.UNAVAILABLE} >= {status for each in failures for status in each}
    assert {} in failures, "calls of the other worker failed, too"
    assert any(failures), "no call was under way"
    assert all(each["right"] for each in heard)
    assert 2 == len(service.workers())
    assert killed.pid not in {worker.pid for worker in service.workers()}
    before = service.rows_by_worker(endpoint)
    for caller in callers(service):
        caller.ask()
    after = service.rows_by_worker(endpoint)
    assert {"1", "2"} == {who for who in after if after[who] > before.get(who, 0.0)}


def test_parent_that_is_killed_leaves_nothing_behind(make_service, callers):
    service = make_service().start()
    workers = service.workers()

    os.kill(service.child.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(workers, timeout=END_S_MAX)

    assert [] == alive
    assert -signal.SIGKILL == wait_until(service.child.died)
    (caller,) = callers(service.start(), 1)
    assert str(VERSION) == caller.ask().model_version


def test_all_workers_answer_what_they_admitted_after_sigterm(make_service, callers, endpoint):
    service = make_service().start()
    workers, done = service.workers(), Event()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        try:
            asking = callers(service)
            working = at_work(pool, asking, done)
            wait_until(lambda: {"1", "2"} <= service.rows_by_worker(endpoint).keys())
            wait_until(lambda: all(caller.asked > 1 for caller in asking))  # one was answered
            service.child.ask_to_stop()
            wait_until(lambda: service.child.died() is not None)
        finally:
            done.set()
        heard = [each.result(CALL_TIMEOUT_S) for each in working]

    assert 0 == service.child.died()
    assert not any(worker.is_running() for worker in workers)
    assert all(each["right"] for each in heard)
    assert {"right", grpc.StatusCode.UNAVAILABLE} == set().union(*heard)


@pytest.mark.parametrize(("first", "second"), [(2, 1), (2, 2), (1, 2)])
@pytest.mark.parametrize("port", ["grpc_port", "rest_port"])
def test_second_service_on_a_port_is_refused_and_told_once(
    make_service, callers, first, second, port
):
    here, there = make_service().start(processes=first), make_service()
    setattr(there, port, getattr(here, port))

    there.start(processes=second, wait=False)

    assert 69 == wait_until(there.child.died)
    assert 1 == there.log().count("PORT_TAKEN")
    (caller,) = callers(here, 1)
    assert str(VERSION) == caller.ask().model_version


def test_wrong_setting_is_told_once(make_service):
    service = make_service().start(wait=False, rows_maximum="5")

    assert 78 == wait_until(service.child.died)
    assert 1 == service.log().count("INFERENCE_ROWS_MAXIMUM")


def test_each_worker_is_a_writer_of_its_own_in_the_log(service, callers):
    for caller in callers(service):
        caller.ask()

    names = [(service.folder / f"data/workers/{number}/log/writer.id") for number in (1, 2)]
    assert 2 == len({name.read_text() for name in names})

# SPDX-License-Identifier: Apache-2.0
"""The gRPC and HTTP doors over loopback: errors, bounds, health, reflection, drain."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from contextlib import ExitStack, closing
from functools import partial
from itertools import islice

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from structlog.testing import capture_logs

from headrace import rpc
from headrace.errors import Busy, HeadraceError, Invalid, NotFound, Unavailable
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.oip import grpc_predict_v2_pb2_grpc as oip_grpc
from headrace.registry.v1 import registry_service_pb2 as registry_pb
from headrace.registry.v1 import registry_service_pb2_grpc as registry_grpc
from headrace.rpc import call, error_of, open_channel
from headrace_kit import grpc_server, grpc_streams
from headrace_kit.admin_http import AdminServer, Page
from headrace_kit.answer_time import left_s
from headrace_kit.auth import Guard
from headrace_kit.grpc_server import GrpcServer, remaining_s
from headrace_kit.testing import wait_until
from headrace_kit.unread_answers import UnreadAnswers

pytestmark = pytest.mark.integration

REGISTRY, OIP = "headrace.registry.v1.ArtifactService", "inference.GRPCInferenceService"


class Artifacts(registry_grpc.ArtifactServiceServicer):
    """Answers with what a test put into `answer`: an error to raise, or chunks to send."""

    def __init__(self):
        self.answer = []
        self.tries = 0
        self.remaining_s = self.left_s = None
        self.held = threading.Lock()

    def DownloadArtifact(self, request, context):  # noqa: N802 - gRPC's name
        self.tries += 1
        self.remaining_s, self.left_s = remaining_s(context), left_s(60.0)
        with self.held:
            for step in self.answer:
                if isinstance(step, BaseException):
                    raise step
                if isinstance(step, threading.Event):
                    step.wait(10.0)
                    continue
                yield registry_pb.DownloadArtifactResponse(chunk=step)

    def UploadArtifact(self, requests, context):  # noqa: N802 - gRPC's name
        self.tries += 1
        for _ in requests:
            pass
        if self.answer:
            raise self.answer.pop(0)
        return registry_pb.UploadArtifactResponse()


class Inference(oip_grpc.GRPCInferenceServiceServicer):
    def ModelReady(self, request, context):  # noqa: N802 - gRPC's name
        raise NotFound("MODEL_UNKNOWN", model=request.name)

    def ModelMetadata(self, request, context):  # noqa: N802 - gRPC's name
        return oip.ModelMetadataResponse(name="n" * 90_000)

    def ServerLive(self, request, context):  # noqa: N802 - gRPC's name
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "by the servicer itself")


@pytest.fixture
def artifacts():
    return Artifacts()


@pytest.fixture
def server(artifacts, monkeypatch):
    monkeypatch.setattr(grpc_server, "UnreadAnswers", partial(UnreadAnswers, 200_000))
    made = GrpcServer(
        host="127.0.0.1",
        port=0,
        services=[
            (registry_grpc.add_ArtifactServiceServicer_to_server, artifacts),
            (oip_grpc.add_GRPCInferenceServiceServicer_to_server, Inference()),
        ],
        names=[REGISTRY, OIP],
        guard=Guard("tests", None),
        message_bytes_max=100_000,
        reflection_pool=oip.DESCRIPTOR.pool,
    )
    made.bound = made.start()
    yield made
    made.stop(1.0)


@pytest.fixture
def channel(server):
    with open_channel(f"127.0.0.1:{server.bound}", message_bytes_max=200_000) as made:
        yield made


@pytest.fixture
def stub(channel):
    return registry_grpc.ArtifactServiceStub(channel)


def download(stub, timeout_s=5.0):
    try:
        request = registry_pb.DownloadArtifactRequest(digest="d")
        return [each.chunk for each in stub.DownloadArtifact(request, timeout=timeout_s)]
    except grpc.RpcError as err:
        raise error_of(err) from err


def upload(stub, **options):
    return call(
        lambda request, timeout: stub.UploadArtifact(iter([request]), timeout=timeout),
        registry_pb.UploadArtifactRequest(chunk=b"x"),
        timeout_s=5.0,
        **options,
    )


def test_error_of_a_stream_reaches_the_caller_after_what_was_sent(artifacts, stub):
    artifacts.answer = [b"one", b"two"]
    assert [b"one", b"two"] == download(stub)

    artifacts.answer = [b"one", NotFound("ARTIFACT_UNKNOWN", digest="d")]
    with pytest.raises(NotFound) as raised:
        download(stub)
    assert {"digest": "d"} == raised.value.metadata


def test_error_of_a_unary_call_reaches_the_caller(channel):
    stub = oip_grpc.GRPCInferenceServiceStub(channel)
    with pytest.raises(NotFound, match="MODEL_UNKNOWN"):
        call(stub.ModelReady, oip.ModelReadyRequest(name="x"), timeout_s=5.0)


def test_bug_is_opaque(artifacts, stub):
    artifacts.answer = [KeyError("/secret")]
    with pytest.raises(HeadraceError, match="INTERNAL") as raised:
        download(stub)
    assert "secret" not in repr(raised.value.__cause__.details())


def test_servicer_may_abort_by_itself(channel):
    stub = oip_grpc.GRPCInferenceServiceStub(channel)
    with pytest.raises(grpc.RpcError) as raised:
        stub.ServerLive(oip.ServerLiveRequest(), timeout=30.0)
    assert grpc.StatusCode.UNIMPLEMENTED is raised.value.code()


def test_only_what_is_safe_is_tried_again(artifacts, stub):
    artifacts.answer = [Busy("QUEUE_FULL"), Unavailable("RESTORING")]
    upload(stub, retries_max=2)
    assert 3 == artifacts.tries

    artifacts.answer = [Invalid("FORMAT"), None]
    with pytest.raises(Invalid):
        upload(stub, retries_max=2)
    assert 4 == artifacts.tries


def test_tries_stay_within_the_one_deadline(artifacts, stub):
    artifacts.answer = [Unavailable("RESTORING")] * 100
    begun_s, given_s, ended_s = [], [], []

    def upload_in_time(request, timeout):
        begun_s.append(time.monotonic())
        given_s.append(timeout)
        try:
            return stub.UploadArtifact(iter([]), timeout=timeout)
        finally:
            ended_s.append(time.monotonic())

    with pytest.raises(Unavailable):
        call(upload_in_time, None, timeout_s=1.5, retries_max=100)
    assert given_s[0] <= 1.5
    assert 1 < len(given_s) < 100
    left_s = [begun_s[0] + given_s[0] - each for each in ended_s]  # behind each try
    assert all(
        more <= max(left, 0.001) for more, left in zip(given_s[1:], left_s[:-1], strict=True)
    )


def test_time_of_a_call_is_capped(artifacts, stub):
    artifacts.answer = [b""]
    download(stub, timeout_s=None)
    assert 60.0 == artifacts.remaining_s
    download(stub, timeout_s=500.0)
    assert 60.0 == artifacts.remaining_s
    download(stub, timeout_s=5.0)
    assert artifacts.remaining_s < 6.0
    assert artifacts.left_s < 5.0  # what the handler waits for ends before its caller does


@pytest.fixture
def impatient(monkeypatch):
    """Streams are given up after an instant."""
    monkeypatch.setattr(grpc_streams, "STREAM_IDLE_S_MAX", 0.2)


def chunks(ended, count=1, interval_s=0.0):
    """Some requests, and then silence until the test ends."""
    for _ in range(count):
        ended.wait(interval_s)
        yield registry_pb.UploadArtifactRequest(chunk=b"x")
    ended.wait(10.0)


@pytest.fixture
def ended():
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_caller_that_sends_nothing_more_is_told_the_deadline(impatient, stub, ended, count):
    with pytest.raises(grpc.RpcError) as raised:
        stub.UploadArtifact(chunks(ended, count), timeout=30.0)

    assert grpc.StatusCode.DEADLINE_EXCEEDED is raised.value.code()
    assert "STREAM_STALLED" == error_of(raised.value).reason


def test_caller_that_sends_drop_by_drop_is_ended_too(monkeypatch, stub, ended):
    monkeypatch.setattr(grpc_server, "STREAM_S_MAX", 0.3)
    with pytest.raises(grpc.RpcError) as raised:
        stub.UploadArtifact(chunks(ended, 1_000, interval_s=0.05), timeout=30.0)

    assert "STREAM_STALLED" == error_of(raised.value).reason


def test_caller_that_breaks_off_is_no_error_in_the_log(server, stub):
    def broken():
        yield registry_pb.UploadArtifactRequest(chunk=b"x")
        raise RuntimeError("broken off")

    with capture_logs() as lines:
        for _ in range(20):
            with pytest.raises(grpc.RpcError):
                stub.UploadArtifact(broken(), timeout=5.0)
        server.stop(5.0)  # no call is in work any more

    assert [] == [line for line in lines if line["log_level"] == "error"]


def test_caller_that_takes_nothing_frees_what_its_call_held(impatient, artifacts, stub):
    held = artifacts.held
    artifacts.answer = [b"x" * 90_000] * 1_000
    request = registry_pb.DownloadArtifactRequest(digest="d")
    untaken = stub.DownloadArtifact(request, timeout=60.0)

    wait_until(lambda: artifacts.tries == 1 and held.locked())
    wait_until(lambda: not held.locked())
    with pytest.raises(grpc.RpcError):
        list(untaken)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """RFC 9113, section 4.1."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def ask_and_take_nothing(port, path, message):
    """A call over a connection of its own, to which no byte of an answer may be sent."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    literals = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in headers.items()
    )
    windows = struct.pack(">HI", 4, 0)  # SETTINGS_INITIAL_WINDOW_SIZE
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, windows))
    prefixed = b"\0" + struct.pack(">I", len(message)) + message
    connection.sendall(frame(1, 4, 1, literals) + frame(0, 1, 1, prefixed))
    return connection


def test_answers_that_nobody_takes_are_bounded_and_go_with_their_callers(server, channel):
    """Each has 90,000 bytes, of which 200,000 may be unread."""
    path = f"/{OIP}/ModelMetadata"
    request = oip.ModelMetadataRequest(name="large").SerializeToString()
    idle = [ask_and_take_nothing(server.bound, path, request) for _ in range(2)]
    metadata = oip_grpc.GRPCInferenceServiceStub(channel).ModelMetadata

    def asked():
        try:
            return len(metadata(oip.ModelMetadataRequest(name="large"), timeout=5.0).name)
        except grpc.RpcError as err:
            return err.code().name, error_of(err).reason

    wait_until(lambda: asked() == ("RESOURCE_EXHAUSTED", "QUEUE_FULL"))
    for each in idle:
        each.close()
    wait_until(lambda: asked() == 90_000)


def test_slow_stream_within_its_bounds_is_served(impatient, artifacts, stub, ended):
    artifacts.answer = [b"x" * 90_000] * 20
    taken = 0
    for _ in stub.DownloadArtifact(registry_pb.DownloadArtifactRequest(digest="d"), timeout=30.0):
        taken += 1
        ended.wait(0.02)

    assert 20 == taken


def reason_of(err):
    """What the server itself has said; our client would know the reason from gRPC's text too."""
    [detail] = rpc_status.from_call(err).details
    info = error_details_pb2.ErrorInfo()
    assert detail.Unpack(info)
    return info.reason


@pytest.mark.parametrize("size", [100_001, 149_000])
def test_oversize_message_is_refused_by_reason_in_both_directions(artifacts, stub, size):
    artifacts.answer = [b"one", b"x" * size]
    taken = stub.DownloadArtifact(registry_pb.DownloadArtifactRequest(digest="d"), timeout=60.0)
    assert b"one" == next(taken).chunk
    with pytest.raises(grpc.RpcError) as unsent:
        next(taken)
    sent = iter([registry_pb.UploadArtifactRequest(chunk=b"x" * size)])
    with pytest.raises(grpc.RpcError) as refused:
        stub.UploadArtifact(sent, timeout=60.0)

    assert "MESSAGE_TOO_LARGE" == reason_of(unsent.value) == reason_of(refused.value)


def test_message_far_above_the_cap_is_refused_unread(server):
    sent = iter([registry_pb.UploadArtifactRequest(chunk=b"x" * 150_001)])
    with (
        open_channel(f"127.0.0.1:{server.bound}") as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        registry_grpc.ArtifactServiceStub(channel).UploadArtifact(sent, timeout=60.0)

    assert None is rpc_status.from_call(refused.value)
    assert "MESSAGE_TOO_LARGE" == error_of(refused.value).reason


def test_service_that_is_away_is_unavailable_at_once():
    with open_channel("127.0.0.1:1") as away, pytest.raises(Unavailable, match="SERVICE_UNAV"):
        upload(registry_grpc.ArtifactServiceStub(away))


@pytest.mark.parametrize("token", ["", "t"])
@pytest.mark.parametrize("kind", [upload, download])
def test_service_that_does_not_answer_is_named_with_its_address(kind, token):
    with (
        open_channel("127.0.0.1:1", service="registry", token=token) as away,
        pytest.raises(Unavailable, match="SERVICE_UNAVAILABLE") as raised,
    ):
        kind(registry_grpc.ArtifactServiceStub(away))

    told = {"service": "registry", "address": "127.0.0.1:1", "status": "UNAVAILABLE"}
    assert told == raised.value.metadata


def test_error_that_the_service_answers_comes_as_it_is_from_where_it_is_named(artifacts, server):
    artifacts.answer = [NotFound("ARTIFACT_UNKNOWN", digest="d")]
    with (
        open_channel(f"127.0.0.1:{server.bound}", service="registry") as named,
        pytest.raises(NotFound) as raised,
    ):
        download(registry_grpc.ArtifactServiceStub(named))

    assert {"digest": "d"} == raised.value.metadata


def test_port_in_use_is_refused(server):
    second = GrpcServer(
        host="127.0.0.1",
        port=server.bound,
        services=[],
        names=[REGISTRY],
        guard=Guard("tests", None),
    )
    with pytest.raises(Unavailable, match=f"PORT_TAKEN.*{server.bound}"):
        second.start()
    second.stop(0.1)


def test_health_follows_readiness(server, channel):
    health = health_pb2_grpc.HealthStub(channel)

    def status(name=""):
        return health.Check(health_pb2.HealthCheckRequest(service=name), timeout=30.0).status

    assert health_pb2.HealthCheckResponse.NOT_SERVING == status()
    server.set_ready(True)
    assert health_pb2.HealthCheckResponse.SERVING == status()
    assert health_pb2.HealthCheckResponse.SERVING == status(REGISTRY)


def test_reflection_lists_and_describes_services_of_both_pools(channel):
    def ask(**request):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(**request)
        return next(stub.ServerReflectionInfo(iter([request]), timeout=30.0))

    listed = ask(list_services="").list_services_response.service
    assert {REGISTRY, OIP, "grpc.health.v1.Health"} <= {service.name for service in listed}
    for name in (REGISTRY, OIP):
        described = ask(file_containing_symbol=name).file_descriptor_response
        assert described.file_descriptor_proto


def test_call_in_work_ends_before_the_server_does(server, artifacts, stub):
    release, answers = threading.Event(), []
    artifacts.answer = [release, b"late"]
    caller = threading.Thread(target=lambda: answers.extend(download(stub)))
    caller.start()
    wait_until(lambda: artifacts.tries == 1)
    stopping = threading.Thread(target=server.stop, args=(5.0,))
    stopping.start()
    release.set()
    caller.join(5.0)
    stopping.join(5.0)

    assert [b"late"] == answers


@pytest.fixture
def connected():
    """Connects a channel to this port, and gives the states that it goes through."""
    with ExitStack() as channels:

        def connect(port):
            channel, states = channels.enter_context(open_channel(f"127.0.0.1:{port}")), []
            channel.subscribe(states.append, try_to_connect=True)
            return states

        yield connect


def test_caller_finds_another_server_when_its_connection_is_old(monkeypatch, connected):
    shorter = tuple((name, milliseconds // 1_000) for name, milliseconds in grpc_server.AGE)
    monkeypatch.setattr(grpc_server, "AGE", shorter)
    made = GrpcServer(
        host="127.0.0.1", port=0, services=[], names=[OIP], guard=Guard("tests", None)
    )
    states = connected(made.start())

    wait_until(lambda: states.count(grpc.ChannelConnectivity.READY) > 1)
    made.stop(1.0)


SETTINGS, PING, ACK = 4, 6, 1


def pings_of(listener):
    """Answers one connection as HTTP/2 has it, and yields with each ping."""
    accepted, _ = listener.accept()
    accepted.settimeout(10.0)
    with accepted, accepted.makefile("rb") as read:
        read.read(len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
        accepted.sendall(frame(SETTINGS, 0, 0, b""))
        while head := read.read(9):
            payload = read.read(int.from_bytes(head[:3], "big"))
            kind, flags = head[3], head[4]
            if flags & ACK or kind not in (SETTINGS, PING):
                continue
            accepted.sendall(frame(kind, ACK, 0, payload if kind == PING else b""))
            if kind == PING:
                yield payload


def test_connection_without_a_call_is_pinged_again_and_again(monkeypatch, connected):
    """Its loss is noticed before the next call, at the pace that is told: at most one a second."""
    monkeypatch.setattr(rpc, "KEEPALIVE_MS", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10.0)
        connected(listener.getsockname()[1])
        with closing(pings_of(listener)) as pings:
            assert 4 == len([*islice(pings, 4)])


def get(port, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30.0)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


@pytest.fixture
def state():
    return {"live": True, "ready": False}


@pytest.fixture
def admin(state):
    def broken(query):
        raise KeyError("/secret")

    def unavailable(query):
        raise Unavailable("RESTORING")

    made = AdminServer(
        "127.0.0.1",
        0,
        lambda: state["ready"],
        {
            "/": lambda query: Page(query.get("name", "").encode(), "text/html"),
            "/broken": broken,
            "/unavailable": unavailable,
        },
    )
    made.bound = made.start()
    yield made
    made.stop(1.0)


def test_health_pages_follow_the_service(admin, state):
    assert 200 == get(admin.bound, "/health/live")[0]
    assert 503 == get(admin.bound, "/health/ready")[0]
    state.update(ready=True)
    assert 503 == get(admin.bound, "/health/ready")[0]
    admin.open(lambda: state["live"])
    assert 200 == get(admin.bound, "/health/ready")[0]
    assert 200 == get(admin.bound, "/health/live")[0]
    state.update(live=False)
    assert 503 == get(admin.bound, "/health/live")[0]
    admin.drain()
    assert 503 == get(admin.bound, "/health/ready")[0]


def test_metrics_are_served(admin):
    status, body = get(admin.bound, "/metrics")
    assert 200 == status
    assert b"process_resident_memory_bytes" in body


def test_pages_are_served_and_fail_without_a_word_too_many(admin):
    assert (200, b"x y") == get(admin.bound, "/?name=x%20y")
    assert 404 == get(admin.bound, "/absent")[0]
    status, body = get(admin.bound, "/broken")
    assert (500, False) == (status, b"secret" in body)
    assert (503, b'{"error":"RESTORING"}\n') == get(admin.bound, "/unavailable")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:80", 200),
        ("localhost", 200),
        ("[::1]:99", 200),
        ("evil.example", 421),
        ("evil.example:80", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
    ],
)
def test_page_of_another_origin_is_turned_away(admin, host, status):
    assert status == get(admin.bound, "/health/live", Host=host)[0]


@pytest.mark.parametrize(
    ("target", "hosts", "status"),
    [
        ("http://evil.example/health/live", ["localhost"], 421),
        ("http://localhost/health/live", ["evil.example"], 421),
        ("http://localhost/health/live", ["localhost"], 200),
        ("/health/live", ["localhost", "evil.example"], 421),
        ("http://[/health/live", ["localhost"], 400),
    ],
)
def test_host_of_the_target_counts_and_each_that_is_named(admin, target, hosts, status):
    with closing(http.client.HTTPConnection("127.0.0.1", admin.bound, timeout=30.0)) as connection:
        connection.putrequest("GET", target, skip_host=True)
        for host in hosts:
            connection.putheader("Host", host)
        connection.endheaders()

        assert status == connection.getresponse().status


def test_taken_http_port_is_refused(admin):
    second = AdminServer("127.0.0.1", admin.bound, bool)
    with pytest.raises(Unavailable, match="PORT_TAKEN"):
        second.start()

# SPDX-License-Identifier: Apache-2.0
"""One law for both doors of hot calls: the grpcio server alone, and the native door before it."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from socket import AF_UNIX, socket

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY, generate_latest

from headrace.errors import Busy, Denied, HeadraceError, Invalid, NotFound, Unavailable
from headrace.feature.v1 import feature_service_pb2_grpc as service
from headrace.rpc import call, error_of, open_channel
from headrace.tracing import TRACEPARENT
from headrace_kit import native_door, patience
from headrace_kit.auth import Guard
from headrace_kit.grpc_server import GrpcServer
from headrace_kit.hot_calls import HotMethod, at_once
from headrace_kit.native_door import NativeDoor
from headrace_kit.testing import a_traceparent, recorded_spans, wait_until

pytestmark = pytest.mark.integration

NAME = "headrace.feature.v1.FeatureService"
PATH = f"/{NAME}/GetOnlineFeatures"
MESSAGE_BYTES_MAX = 100_000
THREADS = Path("/proc/self/task")
DEADLINE_S = 60.0


class Answers:
    """Echoes each request; `hold` holds it back, NotFound and bugs come on demand."""

    def __init__(self):
        self.together: list[int] = []
        self.seen: list[bytes] = []
        self.hold = threading.Event()
        self.hold.set()

    def __call__(self, calls):
        payloads = [each.payload for each in calls]
        self.together.append(len(payloads))
        self.seen.extend(payloads)
        assert self.hold.wait(20.0)
        return [self._one(payload) for payload in payloads]

    def _one(self, payload):
        if payload == b"absent":
            return NotFound("FEATURE_UNKNOWN", feature="x")
        if payload == b"bug":
            raise KeyError("/secret")
        return b"long" * MESSAGE_BYTES_MAX if payload == b"long" else b"<" + payload + b">"


@pytest.fixture
def answers():
    made = Answers()
    yield made
    made.hold.set()


@pytest.fixture(params=["grpcio", "native"])
def native(request):
    return request.param == "native"


@contextmanager
def opened(take, native, folder):
    """A server whose hot calls `take` gets."""
    hot = [HotMethod(PATH, take)]
    door = NativeDoor("tests", hot, folder=folder / "door", message_bytes_max=MESSAGE_BYTES_MAX)
    made = GrpcServer(
        host="127.0.0.1",
        port=0,
        services=[(service.add_FeatureServiceServicer_to_server, service.FeatureServiceServicer())],
        names=[NAME],
        guard=Guard("tests", None),
        message_bytes_max=MESSAGE_BYTES_MAX,
        hot=hot,
        door=door if native else None,
    )
    made.bound, made.native = made.start(), native
    yield made
    made.stop(5.0)


@pytest.fixture
def server(answers, native, tmp_path):
    with opened(at_once(answers), native, tmp_path) as made:
        yield made


@pytest.fixture
def channel(server):
    with open_channel(f"127.0.0.1:{server.bound}", message_bytes_max=1 << 20) as made:
        yield made


@pytest.fixture
def method(channel):
    return channel.unary_unary(PATH)


def ask(method, payload, timeout_s=5.0):
    return call(method, payload, timeout_s=timeout_s)


def test_many_callers_get_their_own_answers(method):
    wanted = [f"caller-{number}".encode() for number in range(300)]
    with ThreadPoolExecutor(20) as pool:
        got = list(pool.map(lambda payload: ask(method, payload), wanted))

    assert [b"<" + payload + b">" for payload in wanted] == got


def test_calls_that_wait_are_answered_together(server, answers, method):
    answers.hold.clear()
    first = method.future(b"first", timeout=10.0)
    wait_until(lambda: answers.together)
    others = [method.future(b"%d" % number, timeout=10.0) for number in range(8)]
    if server.native:  # they have arrived when the front has counted them
        wait_until(lambda: started() >= 9)
    answers.hold.set()
    got = [first.result(), *(other.result() for other in others)]

    assert [b"<first>", *(b"<%d>" % number for number in range(8))] == got
    assert ([1, 8] if server.native else [1] * 9) == answers.together


def started():
    """Calls that the front has taken; each has left the queue or waits there."""
    return max(
        (
            collector._front.metrics()["methods"][PATH]["started"]
            for collector in list(REGISTRY._collector_to_names)
            if isinstance(collector, native_door._Durations)
        ),
        default=0,
    )


def test_error_of_one_is_not_the_others(answers, method):
    answers.hold.clear()
    futures = {payload: method.future(payload, timeout=10.0) for payload in (b"a", b"absent", b"b")}
    answers.hold.set()

    with pytest.raises(grpc.RpcError) as raised:
        futures[b"absent"].result()
    error = error_of(raised.value)
    assert ("FEATURE_UNKNOWN", {"feature": "x"}) == (error.reason, error.metadata)
    assert [b"<a>", b"<b>"] == [futures[payload].result() for payload in (b"a", b"b")]


def test_bug_is_opaque(method):
    with pytest.raises(HeadraceError, match="INTERNAL") as raised:
        ask(method, b"bug")

    assert "secret" not in repr(raised.value.__cause__)


@pytest.mark.parametrize("payload", [b"x" * (MESSAGE_BYTES_MAX + 1), b"long"])
def test_oversize_message_is_refused_in_both_directions(method, payload):
    with pytest.raises(Busy, match="MESSAGE_TOO_LARGE"):
        ask(method, payload)


def test_message_that_gzip_packed_is_read(answers, method):
    packed = b"gzip" * 10_000
    told = method(packed, timeout=DEADLINE_S, compression=grpc.Compression.Gzip)

    assert (b"<" + packed + b">", [packed]) == (told, answers.seen)


def test_message_that_deflate_packed_is_read_or_refused_and_never_misread(server, answers, method):
    packed = b"deflate" * 10_000
    ask_packed = partial(method, packed, timeout=DEADLINE_S, compression=grpc.Compression.Deflate)
    if not server.native:
        assert (b"<" + packed + b">", [packed]) == (ask_packed(), answers.seen)
        return
    with pytest.raises(grpc.RpcError) as raised:
        ask_packed()

    assert grpc.StatusCode.UNIMPLEMENTED is raised.value.code()
    assert "deflate" in raised.value.details()
    assert [] == answers.seen


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_call_that_is_no_hot_one_is_read_however_it_is_packed(channel, compression):
    check = health_pb2_grpc.HealthStub(channel).Check
    asked = health_pb2.HealthCheckRequest(service=NAME)
    told = check(asked, timeout=DEADLINE_S, compression=compression)

    assert health_pb2.HealthCheckResponse.NOT_SERVING == told.status


BOMB_BYTES, BOMB_HELD_MIB_MAX = 256 << 20, 64
SEND_BOMB = """
import sys, grpc
target, path, size, packing = sys.argv[1:]
with grpc.insecure_channel(target, options=[("grpc.max_send_message_length", -1)]) as channel:
    try:
        channel.unary_unary(path)(
            bytes(int(size)), timeout=60, compression=getattr(grpc.Compression, packing)
        )
    except grpc.RpcError as err:
        print(err.code().name)
"""


def status_mib(field: str) -> float:
    """What the kernel says of this process."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) / 1024


@pytest.mark.parametrize("packing", ["Gzip", "Deflate"])
def test_bomb_is_refused_and_the_grpcio_door_never_holds_it(server, answers, packing):
    # Else the peak is that of whatever ran before in this process: proc(5), clear_refs.
    Path("/proc/self/clear_refs").write_text("5")
    before_mib = status_mib("VmHWM")
    # By another process: it holds what it packs.
    arguments = [f"127.0.0.1:{server.bound}", PATH, str(BOMB_BYTES), packing]
    sent = subprocess.run(
        [sys.executable, "-c", SEND_BOMB, *arguments], capture_output=True, text=True, check=True
    )
    held_mib = status_mib("VmHWM") - before_mib

    unread = server.native and packing == "Deflate"
    assert ("UNIMPLEMENTED" if unread else "RESOURCE_EXHAUSTED") == sent.stdout.strip()
    assert [] == answers.seen
    # The native door unpacks gzip whole before its size is known, as it receives all messages.
    assert (server.native and packing == "Gzip") == (held_mib > BOMB_HELD_MIB_MAX)


def test_deadline_ends_a_call_that_is_not_answered_in_time(answers, method):
    answers.hold.clear()
    with pytest.raises(grpc.RpcError) as raised:
        method(b"late", timeout=0.2)

    assert grpc.StatusCode.DEADLINE_EXCEEDED is raised.value.code()


def test_call_that_is_cancelled_before_its_turn_is_not_answered(server, answers, method):
    if not server.native:
        pytest.skip("grpcio tells a handler of it while it runs")
    answers.hold.clear()
    first = method.future(b"first", timeout=10.0)
    wait_until(lambda: answers.seen)
    doomed = method.future(b"doomed", timeout=10.0)
    wait_until(lambda: started() >= 2)
    doomed.cancel()
    wait_until(lambda: b'code="1"' in generate_latest(REGISTRY))
    answers.hold.set()
    first.result()

    assert b"<after>" == ask(method, b"after")
    assert [b"first", b"after"] == answers.seen


@pytest.mark.parametrize("size", [20_000, 200_000])
def test_too_much_metadata_is_refused_and_costs_no_other_call(native, tmp_path, size):
    kept = []
    with (
        opened(kept.extend, native, tmp_path) as server,
        open_channel(f"127.0.0.1:{server.bound}") as channel,
    ):
        other = channel.unary_unary(PATH).future(b"other", timeout=20.0)
        wait_until(lambda: kept)
        refused = []
        for path in (PATH, f"/{NAME}/GetFreshness"):
            with pytest.raises(grpc.RpcError) as raised:
                channel.unary_unary(path)(b"", timeout=5.0, metadata=[("much", "x" * size)])
            refused.append(raised.value.code())
        # Of what is passed on grpcio may drop the metadata instead.
        assert grpc.StatusCode.RESOURCE_EXHAUSTED is refused[0]
        kept[0].answer(b"answered")

        assert (1, b"answered") == (len(kept), other.result())


def test_flood_is_answered_or_refused_as_busy(server, answers, method):
    answers.hold.clear()
    futures = [method.future(b"%d" % number, timeout=20.0) for number in range(3_000)]
    wait_until(lambda: answers.together)
    answers.hold.set()
    outcomes = {}
    for number, future in enumerate(futures):
        try:
            outcome = future.result() == b"<%d>" % number
        except grpc.RpcError as err:
            outcome = type(error_of(err))
        outcomes[outcome] = outcomes.get(outcome, 0) + 1

    assert {True, Busy} >= outcomes.keys()
    assert outcomes[True] > 0


@pytest.fixture
def kept():
    """Calls that the native door has open."""
    return []


@pytest.fixture
def keeping(kept, tmp_path):
    with (
        opened(kept.extend, True, tmp_path) as server,
        open_channel(f"127.0.0.1:{server.bound}") as channel,
    ):
        yield channel.unary_unary(PATH)


def echo(kept):
    while kept:
        call = kept.pop()
        call.answer(b"<" + call.payload + b">")


def test_connection_waits_before_any_of_its_calls_is_refused(keeping, kept):
    futures = [keeping.future(b"%d" % number, timeout=60.0) for number in range(1_500)]
    wait_until(lambda: len(kept) == native_door.CONNECTION_CALLS_MAX)

    def all_answered():
        echo(kept)
        return all(future.done() for future in futures)

    wait_until(all_answered)
    assert all(future.result() == b"<%d>" % number for number, future in enumerate(futures))


@pytest.mark.parametrize(
    ("bounds", "queue"),
    [
        ({"CALLS_MAX": 2}, "calls"),
        ({"LARGE_BYTES": 10, "CALLS_BYTES_MAX": 250}, "bytes of calls"),
    ],
)
def test_calls_beyond_what_may_be_open_are_refused(monkeypatch, keeping, kept, bounds, queue):
    for name, value in bounds.items():
        monkeypatch.setattr(native_door, name, value)
    payload = b"x" * 100
    futures = [keeping.future(payload, timeout=60.0) for _ in range(2)]
    wait_until(lambda: len(kept) == 2)

    with pytest.raises(Busy, match=f"QUEUE_FULL.*{queue}"):
        ask(keeping, payload)

    echo(kept)
    assert [b"<" + payload + b">"] * 2 == [future.result() for future in futures]


@settings(max_examples=5, deadline=None)
@given(st.lists(st.binary(max_size=64), min_size=1, max_size=64))
def test_any_requests_at_once_get_their_own_answers(server_once, payloads):
    futures = [server_once.future(payload, timeout=10.0) for payload in payloads]

    assert [b"<" + payload + b">" for payload in payloads] == [f.result() for f in futures]


@pytest.fixture(scope="module")
def server_once(tmp_path_factory):
    hot = [HotMethod(PATH, at_once(lambda many: [b"<" + one.payload + b">" for one in many]))]
    server = GrpcServer(
        host="127.0.0.1",
        port=0,
        services=[],
        names=[NAME],
        guard=Guard("tests", None),
        hot=hot,
        door=NativeDoor("tests_once", hot, folder=tmp_path_factory.mktemp("door")),
    )
    with open_channel(f"127.0.0.1:{server.start()}") as channel:
        yield channel.unary_unary(PATH)
    server.stop(5.0)


def test_admitted_call_is_answered_and_a_late_one_sent_away(server, channel, answers, method):
    server.set_ready(True)
    answers.hold.clear()
    admitted = method.future(b"admitted", timeout=20.0)
    wait_until(lambda: answers.seen)
    stopping = threading.Thread(target=server.stop, args=(10.0,))
    stopping.start()
    wait_until(lambda: not serving(channel))
    late = method.future(b"late", timeout=20.0)
    answers.hold.set()
    stopping.join(15.0)

    assert b"<admitted>" == admitted.result()
    with pytest.raises(grpc.RpcError) as raised:
        late.result()
    assert isinstance(error_of(raised.value), Unavailable)


def serving(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(service=NAME), timeout=5.0)
    return answer.status == health_pb2.HealthCheckResponse.SERVING


def test_other_calls_are_served_on_the_same_address(server, channel):
    server.set_ready(True)
    assert serving(channel)

    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(f"/{NAME}/GetFreshness")(b"", timeout=5.0)
    assert grpc.StatusCode.UNIMPLEMENTED is raised.value.code()


def test_taken_port_is_refused(server, answers, tmp_path):
    hot = [HotMethod(PATH, at_once(answers))]
    door = NativeDoor("tests_second", hot, folder=tmp_path / "second")
    second = GrpcServer(
        host="127.0.0.1",
        port=server.bound,
        services=[],
        names=[NAME],
        guard=Guard("tests", None),
        hot=hot,
        door=door if server.native else None,
    )
    with pytest.raises(Unavailable, match="PORT_TAKEN"):
        second.start()
    second.stop(0.1)


def test_durations_are_told(server, method):
    ask(method, b"x")
    name = "headrace_tests_hot_rpc_seconds_count" if server.native else "feature_rpc_seconds_count"

    wait_until(lambda: name.encode() in generate_latest(REGISTRY))


def test_socket_that_a_kill_left_is_replaced_and_goes_at_the_end(answers, tmp_path):
    with socket(AF_UNIX) as left:
        left.bind(str(tmp_path / "grpc.sock"))
    hot = [HotMethod(PATH, at_once(answers))]
    made = GrpcServer(
        host="127.0.0.1",
        port=0,
        services=[],
        names=[NAME],
        guard=Guard("tests", None),
        hot=hot,
        door=NativeDoor("tests_again", hot, folder=tmp_path),
    )
    with open_channel(f"127.0.0.1:{made.start()}") as channel:
        made.set_ready(True)
        assert serving(channel)
        assert 0o700 == stat.S_IMODE(tmp_path.stat().st_mode)
    made.stop(5.0)
    assert not tmp_path.exists()


def policies():
    """How this process's threads are scheduled; one that ends meanwhile is left out."""
    found = {}
    for number in [int(each.name) for each in THREADS.iterdir()]:
        with suppress(ProcessLookupError):
            found[number] = os.sched_getscheduler(number)
    return found


def test_front_takes_the_core_from_nobody_and_the_rest_is_as_it_was(answers, tmp_path):
    before = policies()
    with opened(at_once(answers), native=True, folder=tmp_path):
        begun = {each: policy for each, policy in policies().items() if each not in before}

    assert os.SCHED_BATCH in begun.values()
    assert os.SCHED_OTHER in begun.values()  # who answers
    assert os.SCHED_OTHER == os.sched_getscheduler(0)


def test_threads_of_the_grpcio_door_take_the_core_from_nobody(tmp_path):
    seen = []
    take = at_once(lambda calls: [seen.append(os.sched_getscheduler(0)) or b"" for _ in calls])
    with (
        opened(take, native=False, folder=tmp_path) as made,
        open_channel(f"127.0.0.1:{made.bound}") as channel,
    ):
        ask(channel.unary_unary(PATH), b"a")

    assert [os.SCHED_BATCH] == seen


@pytest.mark.parametrize("error", [AttributeError, PermissionError, OSError(38, "ENOSYS")])
def test_door_opens_where_the_kernel_is_not_to_be_asked(monkeypatch, answers, tmp_path, error):
    def refused(*_args):
        raise error

    monkeypatch.setattr(patience.os, "sched_setscheduler", refused)
    with (
        opened(at_once(answers), native=True, folder=tmp_path) as made,
        open_channel(f"127.0.0.1:{made.bound}") as channel,
    ):
        assert b"<x>" == ask(channel.unary_unary(PATH), b"x")


def test_folder_whose_path_no_socket_can_have_is_refused(answers, tmp_path):
    with pytest.raises(Invalid, match="BAD_SETTING"):
        NativeDoor("tests_long", [HotMethod(PATH, at_once(answers))], folder=tmp_path / ("x" * 120))


def test_sampled_call_has_a_span_at_the_door(method):
    with recorded_spans() as finished:
        method(b"a", timeout=5.0, metadata=[(TRACEPARENT, a_traceparent(5, span=6))])
        method(b"b", timeout=5.0, metadata=[(TRACEPARENT, a_traceparent(7, sampled=False))])
        method(b"c", timeout=5.0)
        with pytest.raises(grpc.RpcError):
            method(b"absent", timeout=5.0, metadata=[(TRACEPARENT, a_traceparent(8))])
        wait_until(lambda: len(finished()) >= 2)
        answered, refused = finished()

    assert (5, 6, PATH[1:]) == (answered.context.trace_id, answered.parent.span_id, answered.name)
    assert "OK" == answered.attributes["rpc.response.status_code"]
    assert (8, "FEATURE_UNKNOWN") == (refused.context.trace_id, refused.attributes["error.type"])


def test_caller_who_is_refused_makes_no_span(monkeypatch, method):
    def refuse(guard, path, metadata):
        raise Denied("TOKEN_UNKNOWN")

    with recorded_spans() as finished:
        with monkeypatch.context() as refusing:
            refusing.setattr(Guard, "admit", refuse)
            with pytest.raises(grpc.RpcError, match="TOKEN_UNKNOWN"):
                method(b"a", timeout=5.0, metadata=[(TRACEPARENT, a_traceparent(5))])
        method(b"b", timeout=5.0, metadata=[(TRACEPARENT, a_traceparent(6))])
        wait_until(finished)
        (span,) = finished()

    assert 6 == span.context.trace_id


def test_call_that_a_door_passes_on_has_one_span(channel):
    method = channel.unary_unary(f"/{NAME}/GetFreshness")
    with recorded_spans() as finished:
        with pytest.raises(grpc.RpcError):
            method(b"", timeout=5.0, metadata=[(TRACEPARENT, a_traceparent(5))])
        wait_until(finished)
        (span,) = finished()

    assert (5, f"{NAME}/GetFreshness") == (span.context.trace_id, span.name)


def test_call_that_its_caller_gave_up_has_a_span(native, tmp_path):
    taken = []
    with (
        recorded_spans() as finished,
        opened(taken.extend, native, tmp_path) as server,
        open_channel(f"127.0.0.1:{server.bound}") as channel,
    ):
        metadata = [(TRACEPARENT, a_traceparent(5))]
        doomed = channel.unary_unary(PATH).future(b"doomed", timeout=10.0, metadata=metadata)
        wait_until(lambda: taken)
        doomed.cancel()
        (span,) = wait_until(finished)

    assert "DEADLINE_EXCEEDED" == span.attributes["rpc.response.status_code"]

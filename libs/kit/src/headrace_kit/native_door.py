# SPDX-License-Identifier: Apache-2.0
"""The door of hot calls: HTTP/2 outside the interpreter's lock, calls handed over in batches.

It listens where the service's address is and passes every other call on to the grpcio server behind
it, over a socket that this user alone can open. One thread answers; what arrives meanwhile waits
for it, up to CALLS_MAX, and is answered together. One connection has fewer calls open than that: it
waits, as HTTP/2 has it, before any is refused. There is no TLS, and a message is received whole
before its size is judged, unpacked too where gzip packed it (no other packing is read): the library
(0.5) takes no bound for either, nor can it be told to read no gzip, and the first that is seen of a
call here is its message. It would refuse strangers before that by digests of tokens, but takes
these once and tells no reason, where ours change while it runs. So the door is for the loopback and
for a network whose callers are trusted, behind a proxy that refuses packed messages (ADR 72).
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path

from prometheus_client import REGISTRY
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from pygrpc_native import EVENT_CANCEL, NativeGrpcFront

from headrace.errors import Busy, HeadraceError, Unavailable
from headrace_kit import tracing
from headrace_kit.auth import Guard
from headrace_kit.error_status import to_status
from headrace_kit.grpc_client import MESSAGE_BYTES_MAX
from headrace_kit.hot_calls import TOGETHER_MAX, Answer, HotCall, HotMethod, guarded
from headrace_kit.listening import socket_in
from headrace_kit.part_thread import PartThread
from headrace_kit.patience import patient_threads

# A connection with 900 calls open is answered 11 % more slowly than one with 256, as what waits
# falls out of the processor's caches: a stall that let so many come would last.
CALLS_MAX, CONNECTION_CALLS_MAX = 4_000, 256
# Of all open calls. Those that are no larger than LARGE_BYTES fit, however many there are.
CALLS_BYTES_MAX, LARGE_BYTES = 512 << 20, 1 << 16
EVENTS_MAX = 1_000
TOGETHER_BYTES_MAX = 1 << 18
METADATA_BYTES_MAX = 8_192
# Beyond it the front ends the whole connection, others' calls with it; up to it we refuse the one.
FRONT_METADATA_BYTES_MAX = 1 << 20
IDLE_MS = 1_000
# As long as the grpcio server lets a call without a deadline last.
DEADLINE_S_MAX = 60.0
BUSY_INTERVAL_S = 0.005
# What was answered is on its way to the socket when the last answer was given.
FLUSH_S = 0.1
Metadata = Sequence[tuple[str, str | bytes]]


class NativeDoor:
    """Serves the hot methods and passes on the others; GrpcServer starts and stops it.

    `folder` is the process's own, and holds the socket: one that a kill left there is replaced.
    `reuse_port`: workers of one parent listen there together, see HeldPort.
    """

    def __init__(
        self,
        service: str,
        hot: Sequence[HotMethod],
        *,
        folder: Path,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
        reuse_port: bool = False,
    ) -> None:
        self._service, self._hot, self._bytes_max = service, tuple(hot), message_bytes_max
        self._reuse_port = reuse_port
        self._folder = folder
        self.behind = socket_in(folder, "grpc.sock")
        self._desk: _Desk | None = None

    def start(self, host: str, port: int, guard: Guard) -> int:
        """Listen for whom the guard admits; returns the port. Raises Unavailable PORT_TAKEN."""
        # Its thread is woken by each answer: it writes together what was answered together.
        with patient_threads():
            front = self._front(host, port)
            front.set_fallback(str(self.behind))
            front.start()
        self._desk = _Desk(front, self._hot, guard, self._bytes_max)
        self._desk.open(self._service)
        return front.bound_port

    def _front(self, host: str, port: int) -> NativeGrpcFront:
        try:
            return NativeGrpcFront(
                f"{host}:{port}",
                [(method.path, False) for method in self._hot],
                io_threads=1,
                call_details=True,  # without it no cancellation is told
                metrics=True,
                max_concurrent_streams=CONNECTION_CALLS_MAX,
                max_metadata_size=FRONT_METADATA_BYTES_MAX,
                reuse_port=self._reuse_port,
            )
        except OSError as err:
            raise Unavailable("PORT_TAKEN", host=host, port=port) from err

    def drain(self) -> None:
        """Refuse new calls; what has arrived is answered."""
        if self._desk is not None:
            self._desk.draining.set()

    def stop(self, timeout_s: float) -> None:
        """Answer what was admitted, as far as the time allows, and close."""
        self.drain()
        if self._desk is not None:
            self._desk.close(timeout_s)
        shutil.rmtree(self._folder, ignore_errors=True)

    def failed(self) -> BaseException | None:
        return self._desk.thread.failure if self._desk is not None else None


class _Desk:
    """The one thread that admits calls and hands them over, those that wait together at once."""

    def __init__(
        self, front: NativeGrpcFront, hot: Sequence[HotMethod], guard: Guard, bytes_max: int
    ) -> None:
        self._front, self._hot, self._guard, self._bytes_max = front, hot, guard, bytes_max
        # Both by call id, oldest first. Open until it is answered; other threads take away.
        self._open: dict[int, HotCall] = {}
        self._waiting: dict[int, tuple[HotMethod, HotCall]] = {}
        self._counted_bytes: int | None = None
        self._durations: _Durations | None = None
        self.draining = threading.Event()
        self.thread = PartThread("native-door", self._run)

    def open(self, service: str) -> None:
        self._durations = _Durations(service, self._front)
        REGISTRY.register(self._durations)
        self.thread.start()

    def close(self, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while self.thread.running and self._open and time.monotonic() < deadline_s:
            time.sleep(BUSY_INTERVAL_S)
        time.sleep(FLUSH_S)
        self._front.close()
        self.thread.join(1.0)
        if self._durations is not None:
            REGISTRY.unregister(self._durations)
            self._durations = None

    def _run(self) -> None:
        while True:
            self.thread.tick()
            events = self._front.recv_batch_details(EVENTS_MAX, 0 if self._waiting else IDLE_MS)
            if events is None:
                return
            now_s, self._counted_bytes = time.monotonic(), None
            for kind, call_id, number, payload, _, details in events:
                if kind == EVENT_CANCEL:
                    self._cancel(call_id)
                elif payload is not None:
                    metadata, left_s = (details[0], details[2]) if details else ((), None)
                    end_s = now_s + (DEADLINE_S_MAX if left_s is None else left_s)
                    self._admit(call_id, self._hot[number], payload, metadata, now_s, end_s)
            for method, calls in self._next_together().items():
                guarded(calls, partial(method.take, calls))

    def _cancel(self, call_id: int) -> None:
        self._waiting.pop(call_id, None)
        call = self._open.pop(call_id, None)
        if call is not None:
            call.cancel()
            tracing.end(call.span, Unavailable("DEADLINE_UNMET"))

    def _admit(
        self,
        call_id: int,
        method: HotMethod,
        payload: bytes,
        metadata: Metadata,
        now_s: float,
        end_s: float,
    ) -> None:
        try:
            caller = self._guard.admit(method.path, metadata)
            self._check_room(payload, metadata)
        except HeadraceError as err:
            self._fail(call_id, err)
            return
        call = HotCall(
            payload,
            caller=caller,
            arrived_s=now_s,
            deadline_s=end_s,
            reply=self._reply,
            key=call_id,
            span=tracing.call_span(method.path, metadata),
        )
        self._open[call_id] = call
        self._waiting[call_id] = method, call

    def _check_room(self, payload: bytes, metadata: Metadata) -> None:
        if self.draining.is_set():
            raise Unavailable("SERVICE_UNAVAILABLE", state="draining")
        if len(payload) > self._bytes_max:
            raise self._too_large(payload)
        size = sum(map(len, chain.from_iterable(metadata)))
        if size > METADATA_BYTES_MAX:
            raise Busy("MESSAGE_TOO_LARGE", metadata_bytes=size, bytes_max=METADATA_BYTES_MAX)
        if len(self._open) >= CALLS_MAX:
            raise Busy("QUEUE_FULL", queue="calls", calls_max=CALLS_MAX)
        if len(payload) > LARGE_BYTES:
            self._take_room(len(payload))

    def _take_room(self, size: int) -> None:
        """For a large call; what is open is counted at the first one of a round."""
        if self._counted_bytes is None:
            self._counted_bytes = sum(len(call.payload) for call in list(self._open.values()))
        if self._counted_bytes + size > CALLS_BYTES_MAX:
            raise Busy("QUEUE_FULL", queue="bytes of calls", bytes_max=CALLS_BYTES_MAX)
        self._counted_bytes += size

    def _next_together(self) -> dict[HotMethod, list[HotCall]]:
        """The oldest calls, as many as are handed over in one go."""
        found: dict[HotMethod, list[HotCall]] = {}
        size = 0
        for call_id in list(islice(self._waiting, TOGETHER_MAX)):
            method, call = self._waiting.pop(call_id)
            found.setdefault(method, []).append(call)
            size += len(call.payload)
            if size >= TOGETHER_BYTES_MAX:
                break
        return found

    def _reply(self, call: HotCall, answer: Answer | Exception) -> None:
        """From any thread; nothing for a call that was answered or cancelled."""
        tracing.end(call.span, answer)
        if self._open.pop(call.key, None) is None:
            return
        if not isinstance(answer, bytes):
            self._fail(call.key, answer)
        elif len(answer) > self._bytes_max:
            self._fail(call.key, self._too_large(answer))
        else:
            self._front.respond(call.key, answer)
            if not self._open:
                os.sched_yield()  # to the front's thread, which is patient

    def _fail(self, call_id: int, error: Exception) -> None:
        status = to_status(error)
        details = [("grpc-status-details-bin", status.SerializeToString())]
        self._front.fail(call_id, status.code, status.message, trailing_metadata=details)

    def _too_large(self, message: bytes) -> Busy:
        return Busy("MESSAGE_TOO_LARGE", bytes=len(message), bytes_max=self._bytes_max)


class _Durations(Collector):
    """The front's own histograms: from the call's arrival to its answer."""

    def __init__(self, service: str, front: NativeGrpcFront) -> None:
        self._name, self._front = f"headrace_{service}_hot_rpc_seconds", front

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(
            self._name, "Duration of hot calls, their wait included.", labels=["method", "code"]
        )
        told = self._front.metrics() or {"bounds": [], "methods": {}}
        for method, calls in told["methods"].items():
            for code, seen in calls["status"].items():
                buckets = _cumulative(told["bounds"], seen["buckets"])
                family.add_metric([method, str(code)], buckets, seen["sum"])
        yield family


def _cumulative(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    edges, total, buckets = [*map(str, bounds), "+Inf"], 0, []
    for edge, count in zip(edges, counts, strict=True):
        total += count
        buckets.append((edge, float(total)))
    return buckets

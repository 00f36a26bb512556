# SPDX-License-Identifier: Apache-2.0
"""The door of hot calls: HTTP/2 outside the interpreter's lock, calls handed over in batches.

It listens where the service's address is and passes every other call on to the grpcio server behind
it, over a socket that this user alone can open. One thread answers; what arrives meanwhile waits
for it, up to CALLS_MAX, and is answered together. There is no TLS, and a message is received whole
before its size is judged: the door is for the loopback and for a network whose callers are trusted.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import structlog
from prometheus_client import REGISTRY
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from pygrpc_native import EVENT_CANCEL, NativeGrpcFront

from headrace.errors import Busy, Invalid, Unavailable
from headrace_kit.error_status import to_status
from headrace_kit.grpc_client import MESSAGE_BYTES_MAX
from headrace_kit.hot_calls import HotMethod
from headrace_kit.part_thread import PartThread

CALLS_MAX = 1_000
TOGETHER_MAX = 64
TOGETHER_BYTES_MAX = 1 << 18
METADATA_BYTES_MAX = 8_192
IDLE_MS = 1_000
BUSY_INTERVAL_S = 0.005
# What was answered is on its way to the socket when the last answer was given.
FLUSH_S = 0.1
# Linux takes no longer path of a socket: unix(7), sun_path, without its final zero.
SOCKET_PATH_BYTES_MAX = 107

log = structlog.get_logger(__name__)


class NativeDoor:
    """Serves the hot methods and passes on the others; GrpcServer starts and stops it.

    `folder` is the process's own, and holds the socket: one that a kill left there is replaced.
    """

    def __init__(
        self,
        service: str,
        hot: Sequence[HotMethod],
        *,
        folder: Path,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
    ) -> None:
        self._service, self._hot, self._bytes_max = service, tuple(hot), message_bytes_max
        self._folder = folder
        self.behind = _socket_in(folder)
        self._desk: _Desk | None = None

    def start(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises Unavailable PORT_TAKEN."""
        try:
            front = NativeGrpcFront(
                f"{host}:{port}",
                [(method.path, False) for method in self._hot],
                io_threads=1,
                call_details=True,  # without it no cancellation is told
                metrics=True,
                max_metadata_size=METADATA_BYTES_MAX,
            )
        except OSError as err:
            raise Unavailable("PORT_TAKEN", host=host, port=port) from err
        front.set_fallback(str(self.behind))
        front.start()
        self._desk = _Desk(front, self._hot, self._bytes_max)
        self._desk.open(self._service)
        return front.bound_port

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


def _socket_in(folder: Path) -> Path:
    """Where this user alone may enter; raises Invalid BAD_SETTING when its path is too long."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    whole = folder.absolute() / "grpc.sock"
    # From here it may be shorter, and no process changes its working folder.
    path = min(str(whole), os.path.relpath(whole), key=len)
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        problem = f"a socket's path has at most {SOCKET_PATH_BYTES_MAX} bytes"
        raise Invalid("BAD_SETTING", setting="data_dir", path=path, problem=problem)
    return Path(path)


class _Desk:
    """The one thread that admits calls and answers them, those that wait together at once."""

    def __init__(self, front: NativeGrpcFront, hot: Sequence[HotMethod], bytes_max: int) -> None:
        self._front, self._hot, self._bytes_max = front, hot, bytes_max
        self._waiting: dict[int, tuple[HotMethod, bytes]] = {}  # by call id, oldest first
        self._durations: _Durations | None = None
        self._busy = threading.Event()
        self.draining = threading.Event()
        self.thread = PartThread("native-door", self._run)

    def open(self, service: str) -> None:
        self._durations = _Durations(service, self._front)
        REGISTRY.register(self._durations)
        self.thread.start()

    def close(self, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while self.thread.running and self._busy.is_set() and time.monotonic() < deadline_s:
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
            events = self._front.recv_batch_details(CALLS_MAX, 0 if self._waiting else IDLE_MS)
            if events is None:
                return
            if events:
                self._busy.set()
            for kind, call_id, number, payload, *_ in events:
                if kind == EVENT_CANCEL:
                    self._waiting.pop(call_id, None)
                elif payload is not None:
                    self._admit(call_id, self._hot[number], payload)
            for method, calls in _by_method(self._next_together()):
                self._answer(method, calls)
            if not self._waiting:
                self._busy.clear()

    def _admit(self, call_id: int, method: HotMethod, payload: bytes) -> None:
        if self.draining.is_set():
            self._fail(call_id, Unavailable("SERVICE_UNAVAILABLE", state="draining"))
        elif len(payload) > self._bytes_max:
            self._fail(call_id, self._too_large(payload))
        elif len(self._waiting) >= CALLS_MAX:
            self._fail(call_id, Busy("QUEUE_FULL", queue="calls", calls_max=CALLS_MAX))
        else:
            self._waiting[call_id] = method, payload

    def _next_together(self) -> Iterator[tuple[int, HotMethod, bytes]]:
        """The oldest calls, as many as are answered in one go."""
        size = count = 0
        while self._waiting and count < TOGETHER_MAX and size < TOGETHER_BYTES_MAX:
            call_id = next(iter(self._waiting))
            method, payload = self._waiting.pop(call_id)
            size, count = size + len(payload), count + 1
            yield call_id, method, payload

    def _answer(self, method: HotMethod, calls: Sequence[tuple[int, bytes]]) -> None:
        for (call_id, _), answer in zip(calls, _answers(method, calls), strict=True):
            if not isinstance(answer, bytes):
                self._fail(call_id, answer)
            elif len(answer) > self._bytes_max:
                self._fail(call_id, self._too_large(answer))
            else:
                self._front.respond(call_id, answer)

    def _fail(self, call_id: int, error: Exception) -> None:
        status = to_status(error)
        details = [("grpc-status-details-bin", status.SerializeToString())]
        self._front.fail(call_id, status.code, status.message, trailing_metadata=details)

    def _too_large(self, message: bytes) -> Busy:
        return Busy("MESSAGE_TOO_LARGE", bytes=len(message), bytes_max=self._bytes_max)


def _answers(method: HotMethod, calls: Sequence[tuple[int, bytes]]) -> Sequence[bytes | Exception]:
    try:
        return method.answer([payload for _, payload in calls])
    except Exception as err:
        log.error("rpc_failed", exc_info=err)
        return [err] * len(calls)


def _by_method(
    calls: Iterable[tuple[int, HotMethod, bytes]],
) -> Iterable[tuple[HotMethod, list[tuple[int, bytes]]]]:
    found: dict[HotMethod, list[tuple[int, bytes]]] = {}
    for call_id, method, payload in calls:
        found.setdefault(method, []).append((call_id, payload))
    return found.items()


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

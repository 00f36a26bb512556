# SPDX-License-Identifier: Apache-2.0
"""The gRPC server of a service: errors of our tree as status, health, reflection, bounds, drain.

It listens itself, or a door listens for it that answers the hot calls and passes on the others. One
interceptor is a boundary: what is no HeadraceError is a bug, logged in full under an id, and
answered with opaque text. Workers of one parent may share the port (see HeldPort), and nobody else:
two servers on one port would split the calls.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import grpc
import structlog
from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from headrace.errors import Busy, HeadraceError, Invalid, Unavailable
from headrace.tokens import Caller
from headrace_kit import tracing
from headrace_kit.answer_time import answer_until
from headrace_kit.auth import Guard, open_to_all, work_for
from headrace_kit.call_pool import CallPool
from headrace_kit.error_status import to_status
from headrace_kit.grpc_client import MESSAGE_BYTES_MAX
from headrace_kit.grpc_streams import STREAM_S_MAX, IncomingStream, outgoing_stream
from headrace_kit.hot_calls import Answer, HotCall, HotMethod
from headrace_kit.listening import check_free
from headrace_kit.telemetry import gauge, histogram
from headrace_kit.unread_answers import UnreadAnswers

if TYPE_CHECKING:
    from headrace_kit.spans import Span

CALLS_MAX = 1_000
# A watcher holds a worker. gRPC's way without one lets a watcher who does not read hold up us all.
WATCHERS_MAX = 4
DEADLINE_S_MAX = 60.0
# gRPC reads so many times our own cap, so that it is we who refuse a message, by reason. What is
# larger still is never held in memory: gRPC ends that call with a bare RESOURCE_EXHAUSTED.
READ_FACTOR = 1.5
# Calls that gRPC has read and grpcio has not taken up, which CALLS_MAX then refuses. Beyond this,
# and by default from 1,000 on by chance, gRPC says CANCELLED, which a caller takes for its own.
CALLS_UNTAKEN_MAX = 16_000
# New instances get their share of the callers when connections end; a door's never does.
AGE = (("grpc.max_connection_age_ms", 300_000), ("grpc.max_connection_age_grace_ms", 30_000))
# gRPC's own stop says CANCELLED to calls that it has read and not yet handed over: for this long
# new ones hear UNAVAILABLE from us first, and a caller goes elsewhere or waits.
REFUSE_BEFORE_STOP_S = 0.2

log = structlog.get_logger(__name__)


def remaining_s(context: grpc.ServicerContext, *, cap_s: float = DEADLINE_S_MAX) -> float:
    """Seconds that a handler may still take: the caller's deadline, or the cap when it is later.

    A caller without a deadline gets the cap, so that nothing waits for ever.
    """
    left_s = context.time_remaining()
    return cap_s if left_s is None else max(0.0, min(left_s, cap_s))


class Door(Protocol):
    """What listens in the server's place; see NativeDoor."""

    @property
    def behind(self) -> Path:
        """The socket where it passes on what it does not answer itself."""

    def start(self, host: str, port: int, guard: Guard) -> int:
        """Listen for whom the guard admits; returns the port. Raises Unavailable PORT_TAKEN."""

    def drain(self) -> None:
        """Refuse new calls."""

    def stop(self, timeout_s: float) -> None:
        """End what is in work within the time, and close."""

    def failed(self) -> BaseException | None:
        """Why it ended by itself."""


class GrpcServer:
    """A server for the given servicers; a Part. `services` holds (add function, servicer) pairs.

    `hot` methods are answered by what they name, not by their servicer; `door` answers the same.
    With `reuse_port` the port is shared, by the door too, which was told so itself.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        services: Sequence[tuple[Callable[[Any, grpc.Server], None], object]],
        names: Sequence[str],
        guard: Guard,
        workers: int = 16,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
        reflection_pool: descriptor_pool.DescriptorPool | None = None,
        hot: Sequence[HotMethod] = (),
        door: Door | None = None,
        reuse_port: bool = False,
    ) -> None:
        self._reuse_port = reuse_port
        self._address, self._port, self._names = host, port, tuple(names)
        self._pool = CallPool(workers, patient_threads=bool(hot) and door is None)
        self._interceptor = _ErrorInterceptor(_service_of(names), hot, guard, message_bytes_max)
        self._door, self._guard = door, guard
        self._server = grpc.server(
            self._pool,
            interceptors=[self._interceptor],
            maximum_concurrent_rpcs=CALLS_MAX,
            options=[
                ("grpc.so_reuseport", int(reuse_port)),
                ("grpc.max_receive_message_length", int(READ_FACTOR * message_bytes_max)),
                ("grpc.max_send_message_length", message_bytes_max),
                ("grpc.max_metadata_size", 8_192),
                ("grpc.server.max_pending_requests", CALLS_UNTAKEN_MAX),
                ("grpc.server.max_pending_requests_hard_limit", CALLS_UNTAKEN_MAX),
                ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
                ("grpc.keepalive_permit_without_calls", 1),
                *(() if door else AGE),
            ],
        )
        for add, servicer in services:
            add(servicer, self._server)
        self._health = _Health()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        listed = (*names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        pool = _merged_pool(names, reflection_pool) if reflection_pool else None
        reflection.enable_server_reflection(listed, self._server, pool=pool)
        self.set_ready(False)

    def check_port(self) -> None:
        """Raises Unavailable PORT_TAKEN. A shared one is held by the parent."""
        if not self._reuse_port:
            check_free(self._address, self._port)

    def start(self) -> int:
        """Listen; returns the port. Raises Unavailable PORT_TAKEN."""
        target = f"unix:{self._door.behind}" if self._door else f"{self._address}:{self._port}"
        try:
            port = int(self._server.add_insecure_port(target))
        except RuntimeError as err:
            raise Unavailable("PORT_TAKEN", host=self._address, port=self._port) from err
        self._server.start()
        return self._door.start(self._address, self._port, self._guard) if self._door else port

    def set_ready(self, ready: bool) -> None:
        """Tell health checks whether traffic may come."""
        serving = health_pb2.HealthCheckResponse
        status = serving.SERVING if ready else serving.NOT_SERVING
        for name in ("", *self._names):
            self._health.set(name, status)

    def draining(self) -> bool:
        """Whether new calls are refused: one that has no end of its own should find one."""
        return self._interceptor.draining.is_set()

    def stop(self, timeout_s: float) -> None:
        """Take no new calls, let the running ones end within the time."""
        self._health.enter_graceful_shutdown()
        self._interceptor.draining.set()
        if self._door:
            self._door.drain()
        deadline_s = time.monotonic() + timeout_s
        time.sleep(min(REFUSE_BEFORE_STOP_S, timeout_s))
        self._server.stop(timeout_s).wait(timeout_s + 1.0)
        if self._door:
            self._door.stop(max(0.0, deadline_s - time.monotonic()))
        self._pool.shutdown(wait=False, cancel_futures=True)

    def failed(self) -> BaseException | None:
        return self._door.failed() if self._door else None


def _service_of(names: Sequence[str]) -> str:
    """The service's name: `headrace.feature.v1.FeatureService` gives feature, OIP's inference."""
    return names[0].removeprefix("headrace.").partition(".")[0]


def _merged_pool(
    names: Sequence[str], own: descriptor_pool.DescriptorPool
) -> descriptor_pool.DescriptorPool:
    """One pool for reflection when some services live in a descriptor pool of their own."""
    merged = descriptor_pool.DescriptorPool()
    for name in (*names, health.SERVICE_NAME, reflection.SERVICE_NAME):
        try:
            file = own.FindFileContainingSymbol(name)
        except KeyError:
            file = descriptor_pool.Default().FindFileContainingSymbol(name)
        _add_file(merged, file)
    return merged


def _add_file(pool: descriptor_pool.DescriptorPool, file: Any) -> None:
    for dependency in file.dependencies:
        _add_file(pool, dependency)
    pool.AddSerializedFile(file.serialized_pb)


class _Health(health.HealthServicer):
    """Open to strangers, so that there is an end to those who watch."""

    def __init__(self) -> None:
        self._places = threading.BoundedSemaphore(WATCHERS_MAX)
        super().__init__(experimental_non_blocking=False)

    def Watch(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        if not self._places.acquire(blocking=False):
            _abort(context, Busy("QUEUE_FULL", queue="watchers", watchers_max=WATCHERS_MAX))
        context.add_callback(self._places.release)
        return super().Watch(request, context)


class _ErrorInterceptor(grpc.ServerInterceptor):
    """Wraps every handler: who calls, errors to status, durations to a histogram, spans of traced
    calls, bounds on messages and streams, no new call in a drain.

    A call is admitted when it arrives: what waits for a worker then is still answered (P10).
    """

    def __init__(
        self, service: str, hot: Sequence[HotMethod], guard: Guard, bytes_max: int
    ) -> None:
        self._guard, self._bytes_max = guard, bytes_max
        self._seconds = histogram(service, "rpc_seconds", "Duration of calls.", "method")
        self._unread = UnreadAnswers()
        unread = gauge(service, "unread_answers_bytes", "Answers that callers have not taken yet.")
        unread.set_function(self._unread.bytes)
        self._hot = {
            method.path: _HotHandlers(
                method, self._seconds.labels(method.path), bytes_max, self._unread
            )
            for method in hot
        }
        self.draining = threading.Event()

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = continuation(details)
        if handler is None or open_to_all(details.method):
            return handler
        try:
            caller = self._admit(details)
        except HeadraceError as err:
            return _refusing(err)
        span = tracing.call_span(details.method, details.invocation_metadata)
        if hot := self._hot.get(details.method):
            return hot.handler(caller, span)
        seconds = self._seconds.labels(details.method)
        wire = _Wire(handler, self._bytes_max)
        decode = _for_caller(caller, wire.messages if handler.request_streaming else wire.message)
        if handler.response_streaming:
            method = handler.unary_stream or handler.stream_stream
            behaviour = _streaming(method, decode, wire.encoded, seconds, span)
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
        else:
            method = handler.unary_unary or handler.stream_unary
            behaviour = _unary(method, decode, wire.encoded, seconds, span, self._unread)
            make = (
                grpc.stream_unary_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_unary_rpc_method_handler
            )
        return make(behaviour)

    def _admit(self, details: Any) -> Caller:
        """Raises Denied, Unavailable SERVICE_UNAVAILABLE in a drain."""
        caller = self._guard.admit(details.method, details.invocation_metadata)
        if self.draining.is_set():
            raise Unavailable("SERVICE_UNAVAILABLE", state="draining")
        return caller


Decode = Callable[[Any, grpc.ServicerContext], Any]
Encode = Callable[[Any], bytes]


def _for_caller(caller: Caller, decode: Decode) -> Decode:
    """Decodes in the thread that works for the call, and lets it know for whom, and until when."""

    def decoded(request: Any, context: grpc.ServicerContext) -> Any:
        work_for(caller)
        answer_until(_end_s(context))
        return decode(request, context)

    return decoded


@dataclass(frozen=True, slots=True)
class _Wire:
    """A method's messages from bytes and to bytes, none above the cap.

    gRPC itself would answer INTERNAL for bytes that are no message, which are the caller's mistake,
    and would give no reason for a message that is too large.
    """

    handler: Any
    bytes_max: int

    def message(self, data: bytes, _: object = None) -> Any:
        """Raises Busy MESSAGE_TOO_LARGE, Invalid DECODE_ERROR."""
        try:
            return self.handler.request_deserializer(_bounded(data, self.bytes_max))
        except DecodeError as err:
            raise Invalid("DECODE_ERROR") from err

    def messages(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
        """Raise the same, and what `IncomingStream` raises, where they are asked for."""
        return map(self.message, IncomingStream(requests, context, deadline_s=_end_s(context)))

    def encoded(self, response: Any) -> bytes:
        """Raises Busy MESSAGE_TOO_LARGE."""
        return _bounded(self.handler.response_serializer(response), self.bytes_max)


class _HotHandlers:
    """Of one hot method: each call hands itself over, and its thread waits for the answer."""

    def __init__(
        self, method: HotMethod, seconds: Any, bytes_max: int, unread: UnreadAnswers
    ) -> None:
        self._take, self._seconds, self._bytes_max = method.take, seconds, bytes_max
        self._unread = unread

    def handler(self, caller: Caller, span: Span | None) -> Any:
        answer = partial(self._answer, caller, span)
        behaviour = _unary(answer, self._bounded, self._bounded, self._seconds, span, self._unread)
        return grpc.unary_unary_rpc_method_handler(behaviour)

    def _bounded(self, data: bytes, _: object = None) -> bytes:
        return _bounded(data, self._bytes_max)

    def _answer(
        self, caller: Caller, span: Span | None, payload: bytes, context: grpc.ServicerContext
    ) -> bytes:
        answered: SimpleQueue[Answer | Exception] = SimpleQueue()
        now_s = time.monotonic()
        call = HotCall(
            payload,
            caller=caller,
            arrived_s=now_s,
            deadline_s=now_s + remaining_s(context),
            reply=lambda _, answer: answered.put(answer),
            span=span,
        )

        def ended() -> None:
            if not call.replied:
                call.cancel()
                call.answer(Unavailable("DEADLINE_UNMET"))  # nobody hears it: the worker is free

        if not context.add_callback(ended):
            ended()
        self._take([call])
        answer = answered.get(timeout=DEADLINE_S_MAX)
        if isinstance(answer, bytes):
            return answer
        raise answer


def _bounded(data: bytes, bytes_max: int) -> bytes:
    """Raises Busy MESSAGE_TOO_LARGE."""
    if len(data) > bytes_max:
        raise Busy("MESSAGE_TOO_LARGE", bytes=len(data), bytes_max=bytes_max)
    return data


def _end_s(context: grpc.ServicerContext) -> float:
    return time.monotonic() + remaining_s(context, cap_s=STREAM_S_MAX)


def _refusing(error: HeadraceError) -> Any:
    """A handler that waits for no message: who sends none would hold its thread for ever."""

    def refuse(_: object, context: grpc.ServicerContext) -> NoReturn:
        _abort(context, error)

    return grpc.stream_unary_rpc_method_handler(refuse)


def _in_time(responses: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
    return outgoing_stream(responses, context, deadline_s=_end_s(context))


def _unary(
    method: Callable[..., Any],
    decode: Decode,
    encode: Encode,
    seconds: Any,
    span: Span | None,
    unread: UnreadAnswers,
) -> Callable[..., Any]:
    def behaviour(request: Any, context: grpc.ServicerContext) -> Any:
        begin_s = time.monotonic()
        try:
            with tracing.working(span):
                answer = encode(method(decode(request, context), context))
                unread.hold(context, len(answer))
                return answer
        except Exception as err:  # noqa: BLE001 - the boundary to the caller
            tracing.end(span, err)
            _abort(context, err)
        finally:
            seconds.observe(time.monotonic() - begin_s)
            tracing.end(span)

    return behaviour


def _streaming(
    method: Callable[..., Any], decode: Decode, encode: Encode, seconds: Any, span: Span | None
) -> Callable[..., Any]:
    def behaviour(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        begin_s = time.monotonic()
        try:
            with tracing.working(span):
                responses = method(decode(request, context), context)
                yield from _in_time(map(encode, responses), context)
        except Exception as err:  # noqa: BLE001 - the boundary to the caller
            tracing.end(span, err)
            _abort(context, err)
        finally:
            seconds.observe(time.monotonic() - begin_s)
            tracing.end(span)

    return behaviour


def _abort(context: Any, error: Exception) -> NoReturn:
    if context.code() is not None:  # the servicer itself has aborted
        raise error
    if not isinstance(error, HeadraceError):
        log.error("rpc_failed", exc_info=error)
    context.abort_with_status(rpc_status.to_status(to_status(error)))
    raise AssertionError("abort raises")

# SPDX-License-Identifier: Apache-2.0
"""The gRPC server of a service: errors of our tree as status, health, reflection, bounds, drain.

It listens itself, or a door listens for it that answers the hot calls and passes on the others. One
interceptor is a boundary: what is no HeadraceError is a bug, logged in full under an id, and
answered with opaque text. The port is never shared: two servers on one port would split the calls.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn, Protocol

import grpc
import structlog
from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from headrace.errors import HeadraceError, Invalid, Unavailable
from headrace_kit.error_status import to_status
from headrace_kit.grpc_client import MESSAGE_BYTES_MAX
from headrace_kit.grpc_streams import STREAM_S_MAX, IncomingStream, outgoing_stream
from headrace_kit.hot_calls import HotMethod
from headrace_kit.telemetry import histogram

CALLS_MAX = 1_000
HEALTH_METHODS = f"/{health.SERVICE_NAME}/"
DEADLINE_S_MAX = 60.0
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

    def start(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises Unavailable PORT_TAKEN."""

    def drain(self) -> None:
        """Refuse new calls."""

    def stop(self, timeout_s: float) -> None:
        """End what is in work within the time, and close."""

    def failed(self) -> BaseException | None:
        """Why it ended by itself."""


class GrpcServer:
    """A server for the given servicers; a Part. `services` holds (add function, servicer) pairs.

    `hot` methods are answered by what they name, not by their servicer; `door` answers the same.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        services: Sequence[tuple[Callable[[Any, grpc.Server], None], object]],
        names: Sequence[str],
        workers: int = 16,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
        reflection_pool: descriptor_pool.DescriptorPool | None = None,
        hot: Sequence[HotMethod] = (),
        door: Door | None = None,
    ) -> None:
        self._address, self._port, self._names = host, port, tuple(names)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="grpc")
        self._interceptor = _ErrorInterceptor(_service_of(names), hot)
        self._door = door
        self._server = grpc.server(
            self._pool,
            interceptors=[self._interceptor],
            maximum_concurrent_rpcs=CALLS_MAX,
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", message_bytes_max),
                ("grpc.max_send_message_length", message_bytes_max),
                ("grpc.max_metadata_size", 8_192),
                ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
                ("grpc.keepalive_permit_without_calls", 1),
                *(() if door else AGE),
            ],
        )
        for add, servicer in services:
            add(servicer, self._server)
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        listed = (*names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        pool = _merged_pool(names, reflection_pool) if reflection_pool else None
        reflection.enable_server_reflection(listed, self._server, pool=pool)
        self.set_ready(False)

    def start(self) -> int:
        """Listen; returns the port. Raises Unavailable PORT_TAKEN."""
        target = f"unix:{self._door.behind}" if self._door else f"{self._address}:{self._port}"
        try:
            port = int(self._server.add_insecure_port(target))
        except RuntimeError as err:
            raise Unavailable("PORT_TAKEN", host=self._address, port=self._port) from err
        self._server.start()
        return self._door.start(self._address, self._port) if self._door else port

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


class _ErrorInterceptor(grpc.ServerInterceptor):
    """Wraps every handler: errors to status, durations to a histogram, bounds on streams, no new
    call in a drain.

    A call is admitted when it arrives: what waits for a worker then is still answered (P10).
    """

    def __init__(self, service: str, hot: Sequence[HotMethod]) -> None:
        self._seconds = histogram(service, "rpc_seconds", "Duration of calls.", "method")
        self._hot = {method.path: method for method in hot}
        self.draining = threading.Event()

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = continuation(details)
        if handler is None:
            return None
        seconds = self._seconds.labels(details.method)
        health_call = details.method.startswith(HEALTH_METHODS)
        refusing = self.draining.is_set() and not health_call
        if hot := self._hot.get(details.method):
            behaviour = _unary(_one_by_one(hot), _refuse if refusing else _as_it_is, seconds)
            return grpc.unary_unary_rpc_method_handler(behaviour)
        decode = _refuse if refusing else _decoder(handler)
        if handler.response_streaming:
            method = handler.unary_stream or handler.stream_stream
            bounded = _unbounded if health_call else _bounded  # Watch has no end
            behaviour = _streaming(method, decode, bounded, seconds)
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
        else:
            behaviour = _unary(handler.unary_unary or handler.stream_unary, decode, seconds)
            make = (
                grpc.stream_unary_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_unary_rpc_method_handler
            )
        return make(behaviour, None, handler.response_serializer)


Decode = Callable[[Any, grpc.ServicerContext], Any]
Bound = Callable[[Iterator[Any], grpc.ServicerContext], Iterator[Any]]


def _decoder(handler: Any) -> Decode:
    """From the bytes of a request, or of each one of a stream, to messages.

    gRPC itself would answer INTERNAL for bytes that are no message, which are the caller's mistake.
    """

    def message(data: bytes) -> Any:
        try:
            return handler.request_deserializer(data)
        except DecodeError as err:
            raise Invalid("DECODE_ERROR") from err

    def messages(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
        return map(message, IncomingStream(requests, context, deadline_s=_end_s(context)))

    if handler.request_streaming:
        return messages
    return lambda data, _: message(data)


def _as_it_is(data: bytes, _: grpc.ServicerContext) -> bytes:
    return data


def _one_by_one(method: HotMethod) -> Callable[..., bytes]:
    def behaviour(payload: bytes, _: grpc.ServicerContext) -> bytes:
        (answer,) = method.answer([payload])
        if isinstance(answer, bytes):
            return answer
        raise answer

    return behaviour


def _end_s(context: grpc.ServicerContext) -> float:
    return time.monotonic() + remaining_s(context, cap_s=STREAM_S_MAX)


def _refuse(_: object, __: object) -> NoReturn:
    raise Unavailable("SERVICE_UNAVAILABLE", state="draining")


def _bounded(responses: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
    return outgoing_stream(responses, context, deadline_s=_end_s(context))


def _unbounded(responses: Iterator[Any], _: grpc.ServicerContext) -> Iterator[Any]:
    return responses


def _unary(method: Callable[..., Any], decode: Decode, seconds: Any) -> Callable[..., Any]:
    def behaviour(request: Any, context: grpc.ServicerContext) -> Any:
        begin_s = time.monotonic()
        try:
            return method(decode(request, context), context)
        except Exception as err:  # noqa: BLE001 - the boundary to the caller
            _abort(context, err)
        finally:
            seconds.observe(time.monotonic() - begin_s)

    return behaviour


def _streaming(
    method: Callable[..., Any], decode: Decode, bounded: Bound, seconds: Any
) -> Callable[..., Any]:
    def behaviour(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        begin_s = time.monotonic()
        try:
            yield from bounded(method(decode(request, context), context), context)
        except Exception as err:  # noqa: BLE001 - the boundary to the caller
            _abort(context, err)
        finally:
            seconds.observe(time.monotonic() - begin_s)

    return behaviour


def _abort(context: Any, error: Exception) -> NoReturn:
    if context.code() is not None:  # the servicer itself has aborted
        raise error
    if not isinstance(error, HeadraceError):
        log.error("rpc_failed", exc_info=error)
    context.abort_with_status(rpc_status.to_status(to_status(error)))
    raise AssertionError("abort raises")

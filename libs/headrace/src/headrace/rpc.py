# SPDX-License-Identifier: Apache-2.0
"""gRPC from the caller's side: no call without a deadline, and errors come back as the error tree.

The server half of the mapping is in the kit; both rest on `google.rpc.ErrorInfo` (domain
"headrace"), so that a reason travels end to end. Only what is safe is tried again: Unavailable, and
Busy when the callee named a delay. A write carries a request id, so that a repeat has one effect.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import grpc
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from headrace.errors import Busy, Denied, HeadraceError, Invalid, Unavailable, error_by_reason
from headrace.reasons import REASONS
from headrace.tracing import Options, calling

DOMAIN = "headrace"
MESSAGE_BYTES_MAX = 16 << 20
METADATA_BYTES_MAX = 8_192
# Our servers end a connection that is pinged more often than each 20 s.
KEEPALIVE_MS = 30_000
RECONNECT_MS_MAX = 2_000
RETRY_DELAY_S_MAX = 2.0
Response = TypeVar("Response")
_AWAY = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
)


def open_channel(
    address: str, *, service: str = "", token: str = "", message_bytes_max: int = MESSAGE_BYTES_MAX
) -> grpc.Channel:
    """A plain-text channel with limits on both directions and keepalive; each call shows the token.

    It connects at the first call, and again soon after each loss. Where a `service` is named, the
    error of a call that it does not answer names it and its address. Raises Invalid BAD_REQUEST for
    a token that could not be sent.
    """
    if not (token.isascii() and token.isprintable()):
        raise Invalid("BAD_REQUEST", field="token", problem="is no token")
    options = [
        ("grpc.max_send_message_length", message_bytes_max),
        ("grpc.max_receive_message_length", message_bytes_max),
        ("grpc.max_metadata_size", METADATA_BYTES_MAX),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        # Or else two are sent at that pace without data between them, and then one a minute.
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_MS_MAX),
        ("grpc.lb_policy_name", "round_robin"),
        ("grpc.enable_retries", 0),
    ]
    channel = grpc.insecure_channel(address, options=options)
    steps: list[_EveryCall] = [_Named(Place(service, address))] if service else []
    steps += [_Shown(token)] if token else []
    return grpc.intercept_channel(channel, *steps)


class _Details(NamedTuple):
    method: str
    timeout: float | None
    metadata: Sequence[tuple[str, str | bytes]]
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _EveryCall(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """The same for the four kinds of calls."""

    def _intercept(self, proceed: Any, details: Any, request: Any) -> Any:
        raise NotImplementedError

    def intercept_unary_unary(self, proceed: Any, details: Any, request: Any) -> Any:
        return self._intercept(proceed, details, request)

    intercept_unary_stream = intercept_unary_unary
    intercept_stream_unary = intercept_stream_stream = intercept_unary_unary


class _Shown(_EveryCall):
    """Adds the token; gRPC's own call credentials are refused by a channel without TLS."""

    def __init__(self, token: str) -> None:
        self._shown = ("authorization", f"Bearer {token}")

    def _intercept(self, proceed: Any, details: Any, request: Any) -> Any:
        shown = _Details(
            details.method,
            details.timeout,
            (*(details.metadata or ()), self._shown),
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )
        return proceed(shown, request)


class Place(NamedTuple):
    """Where a call goes."""

    service: str
    address: str


class _Named(_EveryCall):
    """Notes at a call where it went: the errors of gRPC are calls, and do not tell."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def _intercept(self, proceed: Any, details: Any, request: Any) -> Any:
        made = proceed(details, request)
        made.place = self._place
        return made


def call(
    method: Callable[..., Response], request: Any, *, timeout_s: float, retries_max: int = 0
) -> Response:
    """Calls a unary method of a stub; `timeout_s` bounds all tries together.

    A trace of the program goes on in the call.
    """
    with calling(request) as told:
        return _called(method, request, told, timeout_s=timeout_s, retries_max=retries_max)


def _called(
    method: Callable[..., Response],
    request: Any,
    told: Options,
    *,
    timeout_s: float,
    retries_max: int,
) -> Response:
    deadline_s = time.monotonic() + timeout_s
    for attempt in range(retries_max + 1):
        left_s = max(0.001, deadline_s - time.monotonic())
        try:
            return method(request, timeout=left_s, **told)
        except grpc.RpcError as err:
            delay_s = _retry_after_s(err, attempt)
            late = delay_s is None or time.monotonic() + delay_s > deadline_s
            if delay_s is None or late or attempt == retries_max:
                raise error_of(err) from err
            time.sleep(delay_s)
    raise AssertionError("the loop returns or raises")


def pages(
    method: Callable[..., Response], request: Any, *, timeout_s: float, retries_max: int = 0
) -> Iterator[Response]:
    """Calls a listing method again and again: its answers, to the last; each try as in `call`.

    The request's `page_token` goes from page to page.
    """
    while True:
        page: Any = call(method, request, timeout_s=timeout_s, retries_max=retries_max)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _retry_after_s(err: grpc.RpcError, attempt: int) -> float | None:
    """The delay before the next try; None when trying again is not safe or cannot help."""
    asked_s = retry_delay_s(err)
    if err.code() == grpc.StatusCode.UNAVAILABLE:
        return min(0.1 * 2**attempt if asked_s is None else asked_s, RETRY_DELAY_S_MAX)
    return asked_s if err.code() == grpc.StatusCode.RESOURCE_EXHAUSTED else None


def retry_delay_s(err: grpc.RpcError) -> float | None:
    """The delay after which the callee asked to be tried again; None when it did not."""
    status, info = _status_of(err), RetryInfo()
    for detail in status.details if status is not None else ():
        if detail.Unpack(info):
            return float(info.retry_delay.ToMilliseconds()) / 1000
    return None


def error_of(err: grpc.RpcError) -> HeadraceError:
    """The error tree's form of a gRPC error, by its ErrorInfo, else by its status."""
    status, info = _status_of(err), ErrorInfo()
    for detail in status.details if status is not None else ():
        if detail.Unpack(info) and info.domain == DOMAIN and info.reason in REASONS:
            return _placed(error_by_reason(info.reason, **_joined(info.metadata)), err)
    return _placed(_foreign(err.code(), str(err.details() or "")), err)


def part_name(name: str, number: int) -> str:
    """Of the n-th part of a value that is too long for one."""
    return name if number == 1 else f"{name}-{number}"


def _joined(metadata: Mapping[str, str]) -> dict[str, str]:
    """Values that came in parts are whole again."""
    joined = dict(metadata)
    for name in metadata:
        for number in range(2, len(metadata) + 1):
            if name not in joined or part_name(name, number) not in joined:
                break
            joined[name] += "\n" + joined.pop(part_name(name, number))
    return joined


def _placed(error: HeadraceError, err: grpc.RpcError) -> HeadraceError:
    """With the service that does not answer and its address, unless it names another one."""
    place = getattr(err, "place", None)
    away = error.reason == "SERVICE_UNAVAILABLE" and "service" not in error.metadata
    if not away or place is None:
        return error
    return Unavailable(error.reason, **(place._asdict() | error.metadata))


def _status_of(err: grpc.RpcError) -> Status | None:
    try:
        return rpc_status.from_call(err)
    except ValueError:  # the status in the trailers contradicts the call's own code
        return None


def _foreign(code: grpc.StatusCode, details: str) -> HeadraceError:
    """An error that no service of ours phrased: the transport's, a proxy's, gRPC's own."""
    if code in _AWAY:
        return Unavailable("SERVICE_UNAVAILABLE", status=code.name)
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        too_large = "larger than max" in details
        return Busy("MESSAGE_TOO_LARGE" if too_large else "QUEUE_FULL", status=code.name)
    if code == grpc.StatusCode.INVALID_ARGUMENT:
        return Invalid("BAD_REQUEST", details=details)
    if code == grpc.StatusCode.UNAUTHENTICATED:
        return Denied("TOKEN_UNKNOWN", status=code.name)
    if code == grpc.StatusCode.PERMISSION_DENIED:
        return Denied("ACTION_FORBIDDEN", status=code.name)
    return HeadraceError("INTERNAL", status=code.name)

# SPDX-License-Identifier: Apache-2.0
"""gRPC from the caller's side: no call without a deadline, and errors come back as the error tree.

The server half of the mapping is in the kit; both rest on `google.rpc.ErrorInfo` (domain
"headrace"), so that a reason travels end to end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from headrace.errors import Busy, Conflict, Corrupt, HeadraceError, Invalid, NotFound, Unavailable
from headrace.reasons import REASONS

DOMAIN = "headrace"
MESSAGE_BYTES_MAX = 16 << 20
KEEPALIVE_MS = 30_000
RETRY_DELAY_S_MAX = 2.0
_CLASS_BY_KIND: dict[str, type[HeadraceError]] = {
    "Invalid": Invalid,
    "NotFound": NotFound,
    "Conflict": Conflict,
    "Corrupt": Corrupt,
    "Busy": Busy,
    "Unavailable": Unavailable,
    "Bug": HeadraceError,
}


def open_channel(address: str, *, message_bytes_max: int = MESSAGE_BYTES_MAX) -> grpc.Channel:
    """A plain-text channel with limits on both directions and keepalive."""
    options = [
        ("grpc.max_send_message_length", message_bytes_max),
        ("grpc.max_receive_message_length", message_bytes_max),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.enable_retries", 0),
    ]
    return grpc.insecure_channel(address, options=options)


def call(
    method: Callable[..., Any], request: Any, *, timeout_s: float, retries_max: int = 0
) -> Any:
    """Calls a unary method; retries only UNAVAILABLE, and all within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    for attempt in range(retries_max + 1):
        try:
            return method(request, timeout=max(0.001, deadline - time.monotonic()))
        except grpc.RpcError as err:
            error = error_of(err)
            delay_s = min(0.1 * 2**attempt, RETRY_DELAY_S_MAX)
            last = attempt == retries_max or time.monotonic() + delay_s > deadline
            if last or not isinstance(error, Unavailable):
                raise error from err
            time.sleep(delay_s)
    raise AssertionError("the loop returns or raises")


def error_of(err: grpc.RpcError) -> HeadraceError:
    """The error tree's form of a gRPC error, by its ErrorInfo, else by its status."""
    status = rpc_status.from_call(err)
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN and info.reason in REASONS:
            return _CLASS_BY_KIND[REASONS[info.reason].kind](info.reason, **dict(info.metadata))
    code = err.code()
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return Unavailable("SERVICE_UNAVAILABLE", status=code.name)
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Busy("MESSAGE_TOO_LARGE", status=code.name)
    return HeadraceError("INTERNAL", status=code.name)

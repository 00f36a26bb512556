# SPDX-License-Identifier: Apache-2.0
"""Calls of one service to another: the SDK's, but that a refusal is no fault of who called us.

A service shows its own token. When another denies that, who keeps the tokens has to act; to our own
callers the other is Unavailable, and what waits for it goes on when the token is mended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
import structlog

from headrace import rpc
from headrace.errors import Denied, HeadraceError, Unavailable
from headrace.rpc import MESSAGE_BYTES_MAX, open_channel

__all__ = ["MESSAGE_BYTES_MAX", "call", "calls_to", "error_of", "open_channel", "pages"]

LOG_INTERVAL_S = 10.0
Response = TypeVar("Response")

log = structlog.get_logger(__name__)
_logged_at_s: dict[str, float] = {}  # by service, of which there are few


def call(
    method: Callable[..., Response],
    request: Any,
    *,
    service: str,
    timeout_s: float,
    retries_max: int = 0,
) -> Response:
    """As `rpc.call`; `service` is the one that is called."""
    with calls_to(service):
        return rpc.call(method, request, timeout_s=timeout_s, retries_max=retries_max)


def pages(
    method: Callable[..., Response],
    request: Any,
    *,
    service: str,
    timeout_s: float,
    retries_max: int = 0,
) -> Iterator[Response]:
    """As `rpc.pages`; `service` is the one that is called."""
    with calls_to(service):
        yield from rpc.pages(method, request, timeout_s=timeout_s, retries_max=retries_max)


@contextmanager
def calls_to(service: str) -> Iterator[None]:
    """Around calls by the SDK's own functions: a refusal of our token is Unavailable."""
    try:
        yield
    except (Denied, Unavailable) as err:
        ours = _ours(err, service)
        if ours is err:
            raise
        raise ours from err


def error_of(err: grpc.RpcError, *, service: str) -> HeadraceError:
    """As `rpc.error_of`; `service` is the one that was called."""
    return _ours(rpc.error_of(err), service)


def _ours(error: HeadraceError, service: str) -> HeadraceError:
    """As our own callers may hear it: whose fault it is not, and who did not answer."""
    if isinstance(error, Denied):
        return _refused(error, service)
    if error.reason == "SERVICE_UNAVAILABLE" and "service" not in error.metadata:
        return Unavailable(error.reason, service=service, **error.metadata)
    return error


def _refused(error: Denied, service: str) -> Unavailable:
    now_s = time.monotonic()
    if now_s >= _logged_at_s.get(service, -LOG_INTERVAL_S) + LOG_INTERVAL_S:
        _logged_at_s[service] = now_s
        log.error("own_token_refused", service=service, reason=error.reason, error=str(error))
    return Unavailable("SERVICE_UNAVAILABLE", service=service, denied=error.reason)

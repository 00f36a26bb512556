# SPDX-License-Identifier: Apache-2.0
"""Calls with a deadline, limits on both sides, and errors of our own tree.

Only what is safe is tried again: Unavailable, and Busy when the callee named a delay, within the
one deadline. A write carries a request id, so that a repeat has one effect.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from headrace_kit.error_status import from_rpc_error, retry_delay_s

MESSAGE_BYTES_MAX = 16 * 1024 * 1024
RETRY_FIRST_S = 0.1

Request = TypeVar("Request")
Response = TypeVar("Response")


def open_channel(address: str, *, message_bytes_max: int = MESSAGE_BYTES_MAX) -> grpc.Channel:
    """A channel to a service; connects at the first call and again after each loss."""
    return grpc.insecure_channel(
        address,
        options=[
            ("grpc.max_receive_message_length", message_bytes_max),
            ("grpc.max_send_message_length", message_bytes_max),
            ("grpc.max_metadata_size", 8_192),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2_000),
            ("grpc.enable_retries", 0),
            ("grpc.service_config_disable_resolution", 1),
            ("grpc.lb_policy_name", "round_robin"),
        ],
    )


def call(
    method: Callable[..., Response], request: Request, *, timeout_s: float, retries_max: int = 0
) -> Response:
    """Call a unary method of a stub; `timeout_s` bounds all tries together.

    Raises the callee's HeadraceError; Unavailable SERVICE_UNAVAILABLE when it cannot be reached.
    """
    deadline_s = time.monotonic() + timeout_s
    tries = 0
    while True:
        try:
            return method(request, timeout=max(0.001, deadline_s - time.monotonic()))
        except grpc.RpcError as err:
            delay_s = _retry_after_s(err, tries)
            if tries >= retries_max or delay_s is None:
                raise from_rpc_error(err) from err
            if time.monotonic() + delay_s >= deadline_s:
                raise from_rpc_error(err) from err
        tries += 1
        time.sleep(delay_s)


def _retry_after_s(error: Any, tries: int) -> float | None:
    asked_s = retry_delay_s(error)
    if error.code() == grpc.StatusCode.UNAVAILABLE:
        return asked_s if asked_s is not None else float(RETRY_FIRST_S * 2**tries)
    if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return asked_s
    return None

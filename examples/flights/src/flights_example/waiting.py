# SPDX-License-Identifier: Apache-2.0
"""Waiting on conditions, with a bound: a lag of nothing, or whatever else must become true."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from headrace.errors import Unavailable
from headrace_kit.offsets import committed_offsets, topic_end_offsets

POLL_INTERVAL_S = 0.02
CONSUMED_TIMEOUT_S = 300.0


def wait_consumed(bootstrap: str, group: str, topics: Sequence[str]) -> None:
    """Until the group has done all that the topics hold now: it commits after the effect."""
    ends = topic_end_offsets(bootstrap, topics)

    def consumed() -> bool:
        done = committed_offsets(bootstrap, group, topics)
        return all(done.get(partition, 0) >= end for partition, end in ends.items())

    until(consumed, f"{group} to read {', '.join(topics)}", timeout_s=CONSUMED_TIMEOUT_S)


def until(holds: Callable[[], bool], what: str, *, timeout_s: float) -> None:
    """Polls until it holds; a service that restarts meanwhile is waited for.

    Raises Unavailable SERVICE_UNAVAILABLE, naming what was waited for, after `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    cause: Unavailable | None = None
    while time.monotonic() < deadline:
        try:
            if holds():
                return
        except Unavailable as err:
            cause = err
        time.sleep(POLL_INTERVAL_S)
    raise Unavailable("SERVICE_UNAVAILABLE", waited_for=what, waited_s=timeout_s) from cause

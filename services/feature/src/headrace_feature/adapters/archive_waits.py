# SPDX-License-Identifier: Apache-2.0
"""Waiting for the archive, outside of whatever the work behind it is to hold.

All who wait for a stream share the looks at its archive: one of them looks, the others are woken by
what it saw. A caller who goes ends its wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from headrace.errors import Busy, Unavailable
from headrace_feature.domain.completeness import StreamReach, moment_text

WAITING_MAX = 8  # of the 16 threads that answer calls
WAIT_S_MAX = 60.0
LOOK_INTERVAL_S = 0.5
GONE_INTERVAL_S = 0.25


@dataclass(frozen=True, slots=True)
class Look:
    """What a stream's archive was like; `table` is None where there is none yet."""

    begun_s: float
    reach: StreamReach
    table: Any


class ArchiveWaits:
    """`look`: at a stream's archive, now."""

    def __init__(
        self,
        look: Callable[[str], tuple[StreamReach, Any]],
        *,
        wait_s_max: float = WAIT_S_MAX,
        waiting_max: int = WAITING_MAX,
    ) -> None:
        self._look, self._wait_s_max = look, wait_s_max
        self._waiting_max, self._waiting = waiting_max, 0
        self._changed = threading.Condition()
        self._looks: dict[str, Look] = {}
        self._looking: set[str] = set()

    @contextmanager
    def admitted(self, gone: Callable[[], bool]) -> Iterator[Wait]:
        """One of the bounded number of waits; raises Busy QUEUE_FULL."""
        with self._changed:
            if self._waiting >= self._waiting_max:
                raise Busy("QUEUE_FULL", queue="waits for the archive", calls_max=self._waiting_max)
            self._waiting += 1
        try:
            yield Wait(self, gone, time.monotonic() + self._wait_s_max)
        finally:
            with self._changed:
                self._waiting -= 1
                if not self._waiting:
                    self._looks.clear()

    def since(self, stream: str, when_s: float, check: Callable[[], None]) -> Look:
        """A look that began then or later, ours or another's; `check` may end the wait."""
        with self._changed:
            while True:
                check()
                look, now_s = self._looks.get(stream), time.monotonic()
                if look is not None and look.begun_s >= when_s:
                    return look
                if now_s >= when_s and stream not in self._looking:
                    break
                self._changed.wait(min(GONE_INTERVAL_S, max(when_s - now_s, 0.001)))
            self._looking.add(stream)
        try:
            look = Look(time.monotonic(), *self._look(stream))
        finally:
            with self._changed:
                self._looking.discard(stream)
                self._changed.notify_all()
        with self._changed:
            self._looks[stream] = look
            self._changed.notify_all()
        return look


class Wait:
    """Of one caller, for one stream after the other, until one deadline."""

    def __init__(self, waits: ArchiveWaits, gone: Callable[[], bool], deadline_s: float) -> None:
        self._waits, self._gone, self._deadline_s = waits, gone, deadline_s

    def complete(self, stream: str, known_until_us: int, *, published: bool) -> Look:
        """A look at an archive that holds all of what was known, or all that had been published.

        Raises Unavailable RECORDS_BEHIND, and STREAM_STALLED when the caller is gone.
        """
        first = look = self._waits.since(stream, time.monotonic(), self._check)
        while look.table is None or not _holds(look, first, known_until_us, published=published):
            if time.monotonic() >= self._deadline_s:
                raise Unavailable(
                    "RECORDS_BEHIND",
                    stream=stream,
                    known_until=moment_text(known_until_us),
                    waits_for=look.reach.waits_for,
                )
            next_s = min(look.begun_s + LOOK_INTERVAL_S, self._deadline_s)
            look = self._waits.since(stream, next_s, self._check)
        return look

    def _check(self) -> None:
        if self._gone():
            raise Unavailable("STREAM_STALLED", problem="the caller is gone")


def _holds(look: Look, first: Look, known_until_us: int, *, published: bool) -> bool:
    if published and look.reach.holds_published(first.reach):
        return True
    return look.reach.holds(known_until_us)

# SPDX-License-Identifier: Apache-2.0
"""Tells callers whose own `timeout` is over, whether their run has begun or not.

A door tells only of its own deadline, by a cancellation. Who is told here is as one who hung up: it
leaves its queue, and its run ends when nobody else waits for it. A door hears one answer only, so
one that comes at the same moment does no harm.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import count

from headrace.errors import HeadraceError, Unavailable
from headrace_inference.adapters.record_calls import RecordCall
from headrace_kit.hot_calls import HotCall, guarded
from headrace_kit.part_thread import PartThread

# So many that were answered meanwhile, besides as many as wait, are kept at the most.
ANSWERED_MAX = 8
Due = tuple[float, int, HotCall, Callable[[HeadraceError], None]]


class LateCalls:
    """One thread for all calls that have a time of their own; none before the first of them."""

    def __init__(self) -> None:
        self._due: list[Due] = []
        self._size_max = ANSWERED_MAX
        self._numbers = count()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = PartThread("late-calls", self._run)

    def watch(self, call: HotCall, by_s: float, tell: Callable[[HeadraceError], None]) -> None:
        """`tell` answers the call then, by time.monotonic, unless it was. Not Kafka's: their
        answers wait for each other, and nobody for them.
        """
        if by_s >= call.deadline_s or isinstance(call, RecordCall):
            return
        with self._changed:
            if not self._thread.started:
                self._thread.start()
            if len(self._due) >= self._size_max:
                self._forget_answered()
            number = next(self._numbers)
            heapq.heappush(self._due, (by_s, number, call, tell))
            if self._due[0][1] == number:
                self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _forget_answered(self) -> None:
        self._due = [due for due in self._due if not due[2].replied]
        heapq.heapify(self._due)
        self._size_max = 2 * len(self._due) + ANSWERED_MAX

    def _run(self) -> None:
        while (due := self._next()) is not None:
            _, _, call, tell = due
            if not call.replied:
                call.cancel()
                guarded([call], partial(tell, Unavailable("DEADLINE_UNMET")))

    def _next(self) -> Due | None:
        """Waits for it; None once it is closed."""
        with self._changed:
            while not self._closed:
                left_s = self._due[0][0] - time.monotonic() if self._due else None
                if left_s is not None and left_s <= 0.0:
                    return heapq.heappop(self._due)
                self._changed.wait(left_s)
        return None

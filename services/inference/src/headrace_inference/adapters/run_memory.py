# SPDX-License-Identifier: Apache-2.0
"""The memory of runs side by side: as each has its bound, so have they together.

Lanes of many models may run at once. What is large waits for what is large, in the order in which
it came; what is small is not counted, and never waits.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from headrace.errors import Busy
from headrace_inference.domain.serving import Ending
from headrace_kit.telemetry import counter, gauge

# What one run may take besides its model: one share; an eighth of the memory where that is less.
RUN_MEMORY_BYTES_MAX, RUN_MEMORY_SHARE = 1 << 30, 8
# Of all runs of a process: a quarter of its memory, beside the half that models have.
SHARES = 2.0
# Of a share: as many as there are threads for lanes may take as much together as one.
SMALL = 1 / 64
# As long as a lane lets wait.
WAIT_S_MAX = 2.0

T = TypeVar("T")

waiters_count = gauge(
    "inference", "run_memory_waiters_count", "Runs that wait for the memory of others."
)
refused = counter(
    "inference", "run_memory_refused_total", "Runs that found no memory beside others in time."
)


class RunMemory:
    """Shares of it for the runs of one process, by any thread."""

    def __init__(self) -> None:
        self._free = SHARES
        self._changed = threading.Condition()
        self._line: deque[object] = deque()
        waiters_count.set_function(lambda: self.waiting)

    @property
    def waiting(self) -> int:
        return len(self._line)

    def run(self, share: float, work: Callable[[], T], ending: Ending | None) -> T:
        """Does the work while it holds its share; more than one counts as one.

        It waits as long as somebody waits for it: not at all, where nothing tells that. Raises Busy
        QUEUE_FULL when there is no room in time.
        """
        if share <= SMALL:
            return work()
        share = min(1.0, share)
        with self._changed:
            self._take(share, ending)
        try:
            return work()
        finally:
            with self._changed:
                self._free += share
                self._changed.notify_all()

    def _take(self, share: float, ending: Ending | None) -> None:
        place = object()
        self._line.append(place)

        def fits() -> bool:
            return self._line[0] is place and share <= self._free

        try:
            if ending is not None:
                ending.begin(self._look_again)
                self._changed.wait_for(lambda: fits() or ending.asked, WAIT_S_MAX)
            if not fits():
                refused.inc()
                raise Busy("QUEUE_FULL", queue="memory of runs", wait_s_max=WAIT_S_MAX)
            self._free -= share
        finally:
            self._line.remove(place)
            self._changed.notify_all()

    def _look_again(self) -> None:
        with self._changed:
            self._changed.notify_all()

# SPDX-License-Identifier: Apache-2.0
"""The memory of runs side by side: as each has its bound, so have they together.

Lanes of many models may run at once. What is large waits for what is large; what is small is not
counted, and never waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from headrace.errors import Busy

# One share is what a single run may take, an eighth of the memory at the most.
SHARES = 4.0
# Of a share: as many as there are threads for lanes may take as much together as one.
SMALL = 1 / 64
# As long as a lane lets wait.
WAIT_S_MAX = 2.0

T = TypeVar("T")


class RunMemory:
    def __init__(self) -> None:
        self._free = SHARES
        self._changed = threading.Condition()

    def run(self, share: float, work: Callable[[], T]) -> T:
        """Does the work while it holds its share; more than one counts as one.

        Raises Busy QUEUE_FULL when there is no room in time.
        """
        if share <= SMALL:
            return work()
        share = min(1.0, share)
        with self._changed:
            if not self._changed.wait_for(lambda: share <= self._free, WAIT_S_MAX):
                raise Busy("QUEUE_FULL", queue="memory of runs", wait_s=WAIT_S_MAX)
            self._free -= share
        try:
            return work()
        finally:
            with self._changed:
                self._free += share
                self._changed.notify_all()

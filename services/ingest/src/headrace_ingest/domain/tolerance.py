# SPDX-License-Identifier: Apache-2.0
"""How many of a stream's last records may be dead letters before the stream is stopped.

A wrong contract or a broken publisher would set a whole stream aside in a minute; one bad record
among many must not stop anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tolerance:
    """At most this share of any `window_records` consecutive records of a stream; 1 is no limit."""

    share_max: float = 0.2
    window_records: int = 1_000

    @property
    def dead_max(self) -> int:
        return int(self.share_max * self.window_records)


class DeadLetterWindow:
    """Where a stream's last dead letters stand, counted in records since the window was begun."""

    def __init__(self, tolerance: Tolerance) -> None:
        self._tolerance = tolerance
        self._records = 0
        self._places: deque[int] = deque(maxlen=tolerance.dead_max)

    def allows(self, dead: Iterable[int]) -> bool:
        """Whether the next records may have dead letters at these indexes; changes nothing."""
        places = [*self._places, *(self._records + index for index in sorted(dead))]
        # One more than allowed lie in a window when the outermost of them do.
        outermost = zip(places, places[self._tolerance.dead_max :], strict=False)
        return all(last - first >= self._tolerance.window_records for first, last in outermost)

    def remember(self, records: int, dead: Iterable[int]) -> None:
        """These records were taken, with dead letters at these indexes."""
        self._places.extend(self._records + index for index in sorted(dead))
        self._records += records

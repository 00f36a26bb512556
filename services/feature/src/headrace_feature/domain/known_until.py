# SPDX-License-Identifier: Apache-2.0
"""Up to which moment all that was published of a stream is in the answers.

Kafka is asked again and again where the stream ends. Once the fold has come to the ends of one
asking, all that was published before it is in: an idle stream is known until the last asking,
however old its records are, and nothing is known of the time in which Kafka did not answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from headrace_feature.domain.views import Layout

ASKINGS_MAX = 64


@dataclass(frozen=True, slots=True)
class _Asking:
    """`end_by_partition` were not less than this when it was asked."""

    asked_us: int
    end_by_partition: Mapping[int, int]

    def reached(self, positions: Mapping[int, int]) -> bool:
        return all(positions.get(n, 0) >= end for n, end in self.end_by_partition.items())


class KnownUntil:
    """One thread notes askings, any thread reads."""

    def __init__(self) -> None:
        self._askings: dict[str, deque[_Asking]] = {}
        self._known_us: dict[bytes, int] = {}

    def note(self, stream: str, asked_us: int, end_by_partition: Mapping[int, int]) -> None:
        """The ends of our partitions, asked for at that moment or later."""
        askings = self._askings.setdefault(stream, deque(maxlen=ASKINGS_MAX))
        askings.appendleft(_Asking(asked_us, end_by_partition))

    def of(self, layouts: Iterable[tuple[Layout, Mapping[int, int]]]) -> int:
        """Of these layouts with their positions, the earliest; 0 when it is not known of one."""
        return min((self._of(*each) for each in layouts), default=0)

    def _of(self, layout: Layout, positions: Mapping[int, int]) -> int:
        for asking in list(self._askings.get(layout.stream, ())):
            if asking.reached(positions):
                known_us = max(asking.asked_us, self._known_us.get(layout.id, 0))
                self._known_us[layout.id] = known_us
                return known_us
        return self._known_us.get(layout.id, 0)

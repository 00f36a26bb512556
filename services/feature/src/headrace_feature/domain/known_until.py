# SPDX-License-Identifier: Apache-2.0
"""Up to which moment all that was published of a stream is in the answers.

Kafka is asked again and again where the stream ends. Once the fold has come to the ends of one
asking, all that was published before it is in: an idle stream is known until the last asking,
however old its records are, and nothing is known of the time in which Kafka did not answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from headrace_feature.domain.views import Layout

ASKINGS_MAX = 64


@dataclass(frozen=True, slots=True)
class _Asking:
    """`end_by_partition` were not less than this when it was asked."""

    asked_us: int
    end_by_partition: Mapping[int, int]

    def reached(self, positions: Mapping[int, int]) -> bool:
        return all(positions.get(n, 0) >= end for n, end in self.end_by_partition.items())


@dataclass(frozen=True, slots=True)
class _Heard:
    """Askings by stream, the newest first, and what is known by layout id."""

    askings: dict[str, deque[_Asking]] = field(default_factory=dict)
    known_us: dict[bytes, int] = field(default_factory=dict)

    def until(self, moment_us: int) -> _Heard:
        """Without what is said of later moments."""
        askings = {
            stream: deque((each for each in some if each.asked_us <= moment_us), ASKINGS_MAX)
            for stream, some in self.askings.items()
        }
        known_us = dict(self.known_us).items()
        return _Heard(askings, {name: us for name, us in known_us if us <= moment_us})


class KnownUntil:
    """One thread notes askings, any thread reads."""

    def __init__(self) -> None:
        self._heard, self._noted_us = _Heard(), 0

    def note(self, stream: str, asked_us: int, end_by_partition: Mapping[int, int]) -> None:
        """The ends of our partitions, asked for at that moment or later."""
        if asked_us < self._noted_us:  # the clock was put back: those moments are yet to come
            self._heard = self._heard.until(asked_us)
        self._noted_us = asked_us
        askings = self._heard.askings.setdefault(stream, deque(maxlen=ASKINGS_MAX))
        askings.appendleft(_Asking(asked_us, end_by_partition))

    def of(self, layouts: Iterable[tuple[Layout, Mapping[int, int]]]) -> int:
        """Of these layouts with their positions, the earliest; 0 when it is not known of one."""
        heard = self._heard
        return min((_known_us(heard, *each) for each in layouts), default=0)


def _known_us(heard: _Heard, layout: Layout, positions: Mapping[int, int]) -> int:
    known_us = heard.known_us.get(layout.id, 0)
    for asking in list(heard.askings.get(layout.stream, ())):
        if asking.reached(positions):
            heard.known_us[layout.id] = max(asking.asked_us, known_us)
            return heard.known_us[layout.id]
    return known_us

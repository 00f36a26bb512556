# SPDX-License-Identifier: Apache-2.0
"""Up to which moment all that was published of a stream is in the answers.

Kafka is asked again and again where the stream ends. Once the fold has come to the ends of one
asking, all that was published before it is in: an idle stream is known until the last asking,
however old its records are, and nothing is known of the time in which Kafka did not answer. How far
the others have folded their partitions they say beside the observations that they are asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from headrace_feature.domain.log_place import BEGINNING, LogPlace, earliest
from headrace_feature.domain.views import Layout

ASKINGS_MAX = 64


@dataclass(frozen=True, slots=True)
class _Asking:
    """`end_by_partition`, of all partitions, were not less than this when it was asked."""

    asked_us: int
    topic_id: str
    end_by_partition: Mapping[int, int]

    def reached(self, places: Mapping[int, LogPlace]) -> bool:
        return all(
            not end or self._holds(places.get(n, BEGINNING), end)
            for n, end in self.end_by_partition.items()
        )

    def _holds(self, place: LogPlace, end: int) -> bool:
        return place.log_id == self.topic_id and place.offset >= end


@dataclass(frozen=True, slots=True)
class _Heard:
    """Askings by stream, the newest first, and by layout id the last one that was reached."""

    askings: dict[str, deque[_Asking]] = field(default_factory=dict)
    reached: dict[bytes, _Asking] = field(default_factory=dict)

    def until(self, moment_us: int) -> _Heard:
        """Without what is said of later moments."""
        askings = {
            stream: deque((each for each in some if each.asked_us <= moment_us), ASKINGS_MAX)
            for stream, some in self.askings.items()
        }
        reached = dict(self.reached).items()
        return _Heard(askings, {name: one for name, one in reached if one.asked_us <= moment_us})


class KnownUntil:
    """One thread notes askings, any thread reads."""

    def __init__(self) -> None:
        self._heard, self._noted_us = _Heard(), 0

    def note(
        self, stream: str, asked_us: int, topic_id: str, end_by_partition: Mapping[int, int]
    ) -> None:
        """The ends of all partitions, asked for at that moment or later."""
        if asked_us < self._noted_us:  # the clock was put back: those moments are yet to come
            self._heard = self._heard.until(asked_us)
        self._noted_us = asked_us
        askings = self._heard.askings.setdefault(stream, deque(maxlen=ASKINGS_MAX))
        askings.appendleft(_Asking(asked_us, topic_id, end_by_partition))

    def of(self, layouts: Iterable[tuple[Layout, Mapping[int, LogPlace]]]) -> int:
        """Of these layouts, each with how far what was read had been folded by partition, the
        earliest; 0 when it is not known of one.
        """
        heard = self._heard
        return min((_known_us(heard, *each) for each in layouts), default=0)


def lowest(
    places: Mapping[int, LogPlace], others: Mapping[int, LogPlace]
) -> Mapping[int, LogPlace]:
    """Of both; of a partition that is in both, what lies before either."""
    return {**places, **{n: earliest([at, places.get(n, at)]) for n, at in others.items()}}


def _known_us(heard: _Heard, layout: Layout, places: Mapping[int, LogPlace]) -> int:
    for asking in list(heard.askings.get(layout.stream, ())):
        if asking.reached(places):
            heard.reached[layout.id] = asking
            return asking.asked_us
    # Looked at again: whoever has a partition now may have less of it than who had it before.
    forgotten = heard.reached.get(layout.id)
    return forgotten.asked_us if forgotten and forgotten.reached(places) else 0

# SPDX-License-Identifier: Apache-2.0
"""Finds the record that ends the process, so that none can block its partition for ever.

What is being judged is written down before and struck out after. A process that finds an entry when
it starts knows that the one before it died there: the records of the entry are then judged one
by one, and the third death at one offset proves the record guilty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

DEATHS_MAX = 3

Place = tuple[str, int]


class Placed(Protocol):
    """A record with its place."""

    @property
    def topic(self) -> str: ...

    @property
    def partition(self) -> int: ...

    @property
    def offset(self) -> int: ...


PlacedT = TypeVar("PlacedT", bound=Placed)


@dataclass(frozen=True, slots=True)
class Attempt:
    """The offsets [first, end) of a partition, and how often a process died while judging them."""

    first: int
    end: int
    deaths: int = 0

    def holds(self, record: Placed) -> bool:
        return self.first <= record.offset < self.end


class Suspects:
    """The attempts that ended deadly, by topic and partition."""

    def __init__(self, unfinished: Mapping[Place, Attempt]) -> None:
        self._attempts = {
            place: replace(attempt, deaths=attempt.deaths + 1)
            for place, attempt in unfinished.items()
        }

    def parts(self, records: Sequence[PlacedT]) -> list[Sequence[PlacedT]]:
        """The records in their order: suspects alone, all others together."""
        if not self._attempts:
            return [records]
        parts: list[list[PlacedT]] = [[]]
        for record in records:
            if self._suspected(record):
                parts += [[record], []]
            else:
                parts[-1].append(record)
        return [part for part in parts if part]

    def attempts(self, part: Iterable[Placed]) -> dict[Place, Attempt]:
        """What is to be written down before this part is judged."""
        attempts: dict[Place, Attempt] = {}
        for record in part:
            place, suspected = (record.topic, record.partition), self._suspected(record)
            first = attempts[place].first if place in attempts else record.offset
            deaths = suspected.deaths if suspected else 0
            attempts[place] = Attempt(first, record.offset + 1, deaths)
        return attempts

    def guilty(self, part: Sequence[Placed]) -> bool:
        """Whether this part is one record, and that has ended the process too often."""
        suspected = self._suspected(part[0]) if len(part) == 1 else None
        return suspected is not None and suspected.deaths >= DEATHS_MAX

    def clear(self, part: Iterable[Placed]) -> None:
        """These records were judged, or set aside."""
        for record in part:
            if (attempt := self._suspected(record)) and record.offset + 1 == attempt.end:
                del self._attempts[(record.topic, record.partition)]

    def _suspected(self, record: Placed) -> Attempt | None:
        attempt = self._attempts.get((record.topic, record.partition))
        return attempt if attempt is not None and attempt.holds(record) else None

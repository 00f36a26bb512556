# SPDX-License-Identifier: Apache-2.0
"""Finds the record that ends the process, so that none can block its partition for ever.

What is being worked on is written down before and struck out after. A process that finds an entry
when it starts knows that the one before it died there: the records of the entry are then tried in
small parts, after another death one by one, and the third death at one offset proves it guilty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol, TypeVar

DEATHS_MAX = 3
TOGETHER_MAX = 100

Place = tuple[str, int]


class Placed(Protocol):
    """Records with their places, as the loop hands them over."""

    @property
    def offsets(self) -> Sequence[int]: ...

    @property
    def runs(self) -> Sequence[tuple[Place, int, int]]:
        """Where records of one partition lie together: [first, end)."""

    def __len__(self) -> int: ...

    def __getitem__(self: PlacedT, places: slice, /) -> PlacedT: ...


PlacedT = TypeVar("PlacedT", bound=Placed)


@dataclass(frozen=True, slots=True)
class Attempt:
    """The offsets [first, end) of a partition, and how often a process died over them."""

    first: int
    end: int
    deaths: int = 0

    def holds(self, offset: int) -> bool:
        return self.first <= offset < self.end


class AttemptLog(Protocol):
    """What is being worked on, for the process that comes after a sudden end of this one."""

    def read(self) -> dict[Place, Attempt]:
        """What was begun and not ended."""

    def write(self, attempts: Mapping[Place, Attempt]) -> None:
        """This is begun now, and nothing else. Raises Busy DISK_FULL."""


class Suspects:
    """The attempts that ended deadly, by topic and partition."""

    def __init__(self, unfinished: Mapping[Place, Attempt]) -> None:
        self._attempts = {
            place: replace(attempt, deaths=attempt.deaths + 1)
            for place, attempt in unfinished.items()
        }

    def parts(self, records: PlacedT) -> list[PlacedT]:
        """The records in their order: suspects in small parts or alone, all others together."""
        if not self._attempts:
            return [records]
        bounds, before = [0], 0
        for row, place in enumerate(_places(records)):
            size_max = self._together_max(place, records.offsets[row], len(records))
            if size_max != before or row - bounds[-1] >= size_max:
                bounds.append(row)
            before = size_max
        bounds.append(len(records))
        return [records[first:last] for first, last in pairwise(bounds) if first < last]

    def _together_max(self, place: Place, offset: int, others: int) -> int:
        """How many records like this one are tried together."""
        deaths = self._deaths(place, offset)
        return {0: others, 1: TOGETHER_MAX}.get(deaths, 1)

    def attempts(self, part: Placed) -> dict[Place, Attempt]:
        """What is to be written down before this part is worked on."""
        attempts = dict[Place, Attempt]()
        for place, first, end in part.runs:
            last = part.offsets[end - 1]
            begun = attempts[place].first if place in attempts else part.offsets[first]
            attempts[place] = Attempt(begun, last + 1, self._deaths(place, last))
        return attempts

    def guilty(self, part: Placed) -> bool:
        """Whether this part is one record, and that has ended the process too often."""
        return len(part) == 1 and self._deaths(part.runs[0][0], part.offsets[0]) >= DEATHS_MAX

    def clear(self, part: Placed) -> None:
        """These records were worked on, or set aside."""
        for place, offset in (
            zip(_places(part), part.offsets, strict=True) if self._attempts else ()
        ):
            if (attempt := self._suspected(place, offset)) and offset + 1 == attempt.end:
                del self._attempts[place]

    def _deaths(self, place: Place, offset: int) -> int:
        suspected = self._suspected(place, offset)
        return suspected.deaths if suspected else 0

    def _suspected(self, place: Place, offset: int) -> Attempt | None:
        attempt = self._attempts.get(place)
        return attempt if attempt is not None and attempt.holds(offset) else None


def _places(records: Placed) -> list[Place]:
    return [place for place, first, end in records.runs for _ in range(first, end)]

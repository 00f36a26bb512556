# SPDX-License-Identifier: Apache-2.0
"""What was served to predictions, by entity: a record that comes late finds whom it touches.

A row is noted before it is read: a record that is folded later is not in the answer, or came in the
moment of the reading. So none is missed; one of that moment may be told that was in the answer.
The rows noted first go when there are too many.
"""

from __future__ import annotations

import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from headrace_feature.domain.entities import digests
from headrace_feature.domain.observations import EVENT, Run
from headrace_feature.domain.reach import Reach

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ServedRow:
    """One row of a view: `entity` are its values, `noted_us` is when it was noted."""

    reach: Reach
    entity: tuple[str, ...]
    as_of_us: int
    prediction_id: str
    noted_us: int


@dataclass(frozen=True, slots=True, eq=False)
class Touched:
    """The rows whose windows hold a record: one of a run's, by its place there.

    `named`: these rows, or none where they are too many. `count` of them were served as of moments
    from the one to the other.
    """

    record: int
    reach: Reach
    entity: tuple[str, ...]
    features: tuple[str, ...]
    named: Sequence[ServedRow]
    count: int
    from_us: int
    until_us: int


@dataclass(slots=True)
class Budget:
    """How many rows may still be named, so that one batch of late records stays bounded."""

    rows_left: int

    def take(self, rows: int) -> bool:
        enough = rows <= self.rows_left
        self.rows_left -= rows * enough
        return enough


@dataclass(slots=True, eq=False)
class _Entity:
    """An entity's rows, the first noted first, with numbers and moments, none after `newest_us`.

    The first `gone` are remembered no more; they go when they are the most.
    """

    shelf: _Shelf
    digest: tuple[int, int]
    numbers: array[int] = field(default_factory=lambda: array("q"))
    as_of_us: array[int] = field(default_factory=lambda: array("q"))
    rows: list[ServedRow] = field(default_factory=list)
    gone: int = 0
    newest_us: int = 0

    def add(self, number: int, row: ServedRow) -> None:
        self.newest_us = max(self.newest_us, row.as_of_us)
        self.numbers.append(number)
        self.as_of_us.append(row.as_of_us)
        self.rows.append(row)

    def forget_first(self) -> None:
        self.gone += 1
        if 2 * self.gone >= len(self.rows):
            for column in (self.numbers, self.as_of_us, self.rows):
                del column[: self.gone]
            self.gone = 0

    def between(self, numbers: range, from_us: int, until_us: int) -> list[ServedRow]:
        """Of those numbers and moments, both edges with them."""
        number, moment = np.array(self.numbers), np.array(self.as_of_us)
        found = (number >= max(numbers.start, self.numbers[self.gone])) & (number < numbers.stop)
        found &= (moment >= from_us) & (moment <= until_us)
        return [self.rows[place] for place in np.flatnonzero(found).tolist()]


@dataclass(slots=True, eq=False)
class _Shelf:
    """What was noted of one view as it is laid out.

    `newest_us`: no moment was later; `reach_us`: none looked farther back.
    """

    newest_us: int = 0
    reach_us: int = 0
    entities: dict[tuple[int, int], _Entity] = field(default_factory=dict)


class ServedRows:
    """Any thread notes and looks. Rows have numbers, growing."""

    def __init__(self, *, rows_max: int, begun_us: int) -> None:
        self._rows_max, self._since_us = rows_max, begun_us
        self._shelves: dict[tuple[bytes, str], _Shelf] = {}
        self._order: deque[tuple[_Entity, ServedRow]] = deque()  # the first noted first
        self._first, self._next = 0, 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._order)

    @property
    def next_number(self) -> int:
        return self._next

    @property
    def first_number(self) -> int:
        """Rows with lower numbers are remembered no more."""
        return self._first

    def remembered_since_us(self) -> int:
        """All rows that were noted since are here."""
        return self._since_us

    def note(self, rows: Sequence[ServedRow]) -> None:
        with self._lock:
            for row, digest in _with_digests(rows):
                self._add(row, digest)
            while len(self._order) > self._rows_max:
                self._forget_first()

    def forget(self, gone: Callable[[ServedRow], bool]) -> bool:
        """Name these entities no more; whether there was one. Their rows keep their numbers."""
        with self._lock:
            rows = [row for _, row in self._order]
            left = [_unnamed(row) if gone(row) else row for row in rows]
            if left == rows:
                return False
            self._shelves, self._order, self._next = {}, deque(), self._first
            for row, digest in _with_digests(left):
                self._add(row, digest)
            return True

    def restore(self, first_number: int, rows: Sequence[ServedRow]) -> None:
        """What another process noted, in the order of its numbers and before anything else."""
        if not self._order:
            self._first, self._since_us = first_number, min(self._since_us, rows[0].noted_us)
        self._next = first_number
        self.note(rows)

    def numbered(self, numbers: range) -> tuple[int, list[ServedRow]]:
        """The rows with these numbers, as far as they are remembered, behind their first number."""
        with self._lock:
            skipped = max(numbers.start - self._first, 0)
            stop = max(numbers.stop - self._first, skipped)
            rows = [row for _, row in islice(self._order, skipped, stop)]
            return self._first + skipped, rows

    def touched(self, layout_id: bytes, run: Run, numbers: range, budget: Budget) -> list[Touched]:
        """By records of the run, the rows with these numbers whose windows hold them."""
        if not numbers or not len(run):
            return []
        with self._lock:
            shelves = [s for (at, _), s in self._shelves.items() if at == layout_id]
            met = [each for shelf in shelves for each in _met(shelf, run, numbers)]
        return [touched for each in met for touched in _touched(run, *each, budget)]

    def _add(self, row: ServedRow, digest: tuple[int, int]) -> None:
        shelf = self._shelves.setdefault((row.reach.layout_id, row.reach.view), _Shelf())
        entity = shelf.entities.get(digest)
        if entity is None:
            entity = shelf.entities[digest] = _Entity(shelf, digest)
        shelf.newest_us = max(shelf.newest_us, row.as_of_us)
        shelf.reach_us = max(shelf.reach_us, row.reach.longest_us)
        entity.add(self._next, row)
        self._order.append((entity, row))
        self._next += 1

    def _forget_first(self) -> None:
        entity, row = self._order.popleft()
        entity.forget_first()
        self._first, self._since_us = self._first + 1, max(self._since_us, row.noted_us)
        if not entity.rows:
            del entity.shelf.entities[entity.digest]


def _with_digests(rows: Sequence[ServedRow]) -> Iterator[tuple[ServedRow, tuple[int, int]]]:
    named = zip(*digests([row.entity for row in rows]).tolist(), strict=True)
    yield from zip(rows, named, strict=True)


def _unnamed(row: ServedRow) -> ServedRow:
    """Of an entity that no record has."""
    return replace(row, entity=("",) * len(row.entity), prediction_id="")


def _met(shelf: _Shelf, run: Run, numbers: range) -> Iterator[tuple[Ints, list[ServedRow]]]:
    """Of each entity that is in both: records that lie before a moment it was served as of."""
    late = np.flatnonzero(run.matrix[:, EVENT] <= shelf.newest_us)
    if not len(late):
        return
    of_row = np.arange(len(run.starts) - 1).repeat(np.diff(run.starts))[late]
    places, first = np.unique(of_row, return_index=True)
    named = zip(*run.entities[:, places].tolist(), strict=True)
    edges = [*first.tolist(), len(late)]
    oldest_us = np.minimum.reduceat(run.matrix[late, EVENT], first).tolist()
    for number, entity in enumerate(map(shelf.entities.get, named)):
        # What came in time stops here: entities that were served before it are most of them.
        if entity is not None and oldest_us[number] <= entity.newest_us:
            records = late[edges[number] : edges[number + 1]]
            event_us = run.matrix[records, EVENT]
            last_us = int(event_us.max()) + shelf.reach_us
            if rows := entity.between(numbers, int(event_us.min()), last_us):
                yield records, rows


def _touched(
    run: Run, records: Ints, rows: Sequence[ServedRow], budget: Budget
) -> Iterator[Touched]:
    by_reach: dict[Reach, list[ServedRow]] = {}
    for row in rows:
        by_reach.setdefault(row.reach, []).append(row)
    sights = [_Sight.of(reach, alike) for reach, alike in by_reach.items()]
    for record in records.tolist():
        seen = [(sight, *sight.seeing(int(run.matrix[record, EVENT]))) for sight in sights]
        seen = [each for each in seen if len(each[2])]
        if not seen:
            continue
        moments_us = np.concatenate([sight.as_of_us[places] for sight, _, places in seen])
        named = budget.take(len(moments_us))
        yield Touched(
            record=record,
            reach=rows[0].reach,
            entity=rows[0].entity,
            features=tuple(dict.fromkeys(name for _, names, _ in seen for name in names)),
            named=[s.rows[place] for s, _, places in seen for place in places] if named else (),
            count=len(moments_us),
            from_us=int(moments_us.min()),
            until_us=int(moments_us.max()),
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Sight:
    """The edges of every window [windows, rows] of rows that were asked alike."""

    reach: Reach
    rows: Sequence[ServedRow]
    as_of_us: Ints
    since_us: Ints
    until_us: Ints

    @classmethod
    def of(cls, reach: Reach, rows: Sequence[ServedRow]) -> _Sight:
        as_of_us = np.array([row.as_of_us for row in rows], dtype=np.int64)
        edges = {window: window.edges(as_of_us) for _, window in reach.windows}
        since_us, until_us = zip(*(edges[window] for _, window in reach.windows), strict=True)
        return cls(reach, rows, as_of_us, np.stack(since_us), np.stack(until_us))

    def seeing(self, event_us: int) -> tuple[list[str], Ints]:
        """The features that have a window with this moment in it, and which rows do."""
        inside = (self.since_us < event_us) & (event_us <= self.until_us)
        names = [self.reach.windows[w][0] for w in np.flatnonzero(inside.any(axis=1)).tolist()]
        return names, np.flatnonzero(inside.any(axis=0))

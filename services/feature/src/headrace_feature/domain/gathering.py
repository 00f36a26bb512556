# SPDX-License-Identifier: Apache-2.0
"""The observations of some entities, from many runs into one block, each event once.

Every step is one numpy call for all entities and runs' rows; the only loop is over the runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace_feature.domain.observations import (
    EVENT,
    ID_HASH,
    KNOWN,
    AnyRun,
    Ids,
    Ints,
    Run,
    Words,
    contents,
    in_order,
    joined_ids,
    listed,
    ordered,
)

NO_ENTITIES: Words = np.empty((2, 0), dtype=np.uint64)
_ENTITY_BYTES = 24  # its digest, and where its rows begin


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """Entities [2, entities], each once; of each what is after `since_us` and up to `until_us`."""

    entities: Words
    since_us: Ints
    until_us: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Rows of runs: those of entity k are `starts[k]` to `starts[k + 1]`, by event time and id.

    It may hold more of an entity than was wanted.
    """

    matrix: Ints
    starts: Ints

    def first_after(self, slots: Ints, moments_us: Ints) -> Ints:
        """Per question, the first row of entity `slots[k]` that is after its moment.

        All entities lie on one line of time, end to end, so that one search finds all rows;
        whoever asks sees to it that `entities x span` stays in int64.
        """
        event_us, entities = self.matrix[:, EVENT], len(self.starts) - 1
        base_us = int(event_us.min(initial=0))
        span_us = int(event_us.max(initial=0)) - base_us + 2
        ours = np.arange(entities).repeat(np.diff(self.starts))
        line_us = event_us - base_us + 1 + span_us * ours
        within = np.minimum(np.maximum(moments_us - base_us + 1, 0), span_us - 1)
        return line_us.searchsorted(slots * span_us + within, "right")


@dataclass(frozen=True, slots=True, eq=False)
class Ranges:
    """Of one run: per wanted entity that it holds, which of `wanted`, its place, and its rows."""

    run: AnyRun
    slots: Ints
    places: Ints
    first: Ints
    counts: Ints

    def without(self, slots: Ints) -> Ranges:
        """The same without some of the wanted entities."""
        kept = ~np.isin(self.slots, slots)
        return Ranges(
            self.run, self.slots[kept], self.places[kept], self.first[kept], self.counts[kept]
        )

    def bytes(self) -> int:
        """What the rows take as a run, but for what each entity takes."""
        text = self.run.text_bytes(self.first, self.first + self.counts).sum()
        return int(text) + int(self.counts.sum()) * _row_bytes(self.run)

    def found(self) -> Found:
        return Found(self.run, listed(self.first, self.counts), self.slots.repeat(self.counts))


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Rows of one run, and which of the wanted entities each belongs to."""

    run: AnyRun
    rows: Ints
    slots: Ints


def ranges_of(runs: Sequence[AnyRun], wanted: Wanted) -> list[Ranges]:
    """Where the runs hold something of the entities."""
    since_us, until_us = wanted.since_us.min(initial=2**62), wanted.until_us.max(initial=0)
    held = [run for run in runs if len(run)]
    within = [run for run in held if run.newest_us > since_us and run.oldest_us <= until_us]
    found = [_ranges(run, wanted) for run in within]
    return [each for each in found if len(each.slots)]


def _ranges(run: AnyRun, wanted: Wanted) -> Ranges:
    places, slots = _places(run.entities, wanted.entities)
    first, last = run.ranges(places, wanted.since_us[slots], wanted.until_us[slots])
    return Ranges(run, slots, places, first, np.maximum(last - first, 0))


@dataclass(frozen=True, slots=True, eq=False)
class Extract:
    """What runs hold of some entities, for another to gather from. `width`: of a row."""

    ranges: Sequence[Ranges]
    width: int

    @classmethod
    def of(cls, runs: Sequence[AnyRun], wanted: Wanted, *, width: int) -> Extract:
        return cls(ranges_of(runs, wanted), width)

    @property
    def bytes(self) -> int:
        return sum(each.bytes() for each in self.ranges)

    def whole(self) -> Run:
        """As one run, which costs a sort here and spares whoever gathers many short runs."""
        found = [each.found() for each in self.ranges]
        entities = [each.run.entities[:, each.places.repeat(each.counts)] for each in self.ranges]
        empty = np.empty((0, self.width), np.int64)
        return ordered(
            np.concatenate([NO_ENTITIES, *entities], axis=1),
            np.concatenate([empty, *(each.run.rows(each.rows) for each in found)]),
            joined_ids([Ids.of([]), *(each.run.ids_of(each.rows) for each in found)]),
        )

    def pieces(self, bytes_max: int) -> Iterator[Run]:
        """As runs of at most so many bytes and a row, each of one run, whose order they keep."""
        for each in self.ranges:
            yield from _pieces(each, bytes_max)


def _pieces(ranges: Ranges, bytes_max: int) -> Iterator[Run]:
    run, by_place = ranges.run, np.argsort(ranges.places)
    counts = ranges.counts[by_place]
    rows = listed(ranges.first[by_place], counts)
    places = ranges.places[by_place].repeat(counts)
    # As if each row brought its entity: a piece may have as many.
    sizes = run.id_bytes(rows) + _row_bytes(run) + _ENTITY_BYTES
    piece = (sizes.cumsum() - sizes) // bytes_max
    cuts = np.flatnonzero(np.diff(piece)) + 1
    for some, of_these in zip(np.split(rows, cuts), np.split(places, cuts), strict=True):
        if len(some):
            yield in_order(run.entities[:, of_these], run.rows(some), run.ids_of(some))


def _row_bytes(run: AnyRun) -> int:
    """But for the text of its id."""
    return 8 * (run.width + 1)


def block_of(found: Sequence[Found], *, entities: int, width: int, by_id: bool) -> Block:
    """The rows of the entities, each event once. `width`: of a row, for when there are none.

    `by_id`: whether the order of equal event times matters: it costs a look at the ids.
    """
    found = [each for each in found if len(each.rows)]
    if not found:
        return Block(np.empty((0, width), np.int64), np.zeros(entities + 1, np.int64))
    slots = np.concatenate([each.slots for each in found])
    matrix = np.concatenate([each.run.rows(each.rows) for each in found])
    order = _order(slots, matrix, found, by_id=by_id)
    if order is not None:
        slots, matrix = slots[order], matrix[order]
    counts = np.bincount(slots, minlength=entities)
    return Block(matrix, np.concatenate((np.zeros(1, dtype=np.int64), counts.cumsum())))


def _places(held: Words, wanted: Words) -> tuple[Ints, Ints]:
    """(place in `held`, place in `wanted`) of each entity that is in both."""
    places = np.minimum(held[0].searchsorted(wanted[0]), held.shape[1] - 1)
    same = held[:, places] == wanted
    slots = np.flatnonzero(same.all(axis=0))
    # Two entities share a first half: hardly ever.
    if len(slots) < same[0].sum():
        return _places_one_by_one(held, wanted)
    return places[slots], slots


def _places_one_by_one(held: Words, wanted: Words) -> tuple[Ints, Ints]:
    found = [
        (place, slot)
        for slot, entity in enumerate(wanted.T)
        for place in np.flatnonzero((held.T == entity).all(axis=1))
    ]
    places, slots = np.array(found, dtype=np.int64).reshape(-1, 2).T
    return places, slots


def _order(slots: Ints, matrix: Ints, found: Sequence[Found], *, by_id: bool) -> Ints | None:
    """By (entity, event time, id), an event that several runs or partitions hold once.

    None where the rows are in order already.
    """
    event_us, hashes = matrix[:, EVENT], matrix[:, ID_HASH]
    order = np.lexsort((event_us, slots)) if len(found) > 1 else np.arange(len(slots))
    if not _equal_to_next(order, slots, event_us).any():
        return order if len(found) > 1 else None
    by_known = (matrix[:, KNOWN], hashes, event_us, slots)
    order = np.lexsort(by_known)
    if _equal_to_next(order, *by_known).any():
        order = np.lexsort((*contents(matrix), *by_known))
    repeat = _equal_to_next(order, slots, event_us, hashes)
    order = order[np.concatenate(([True], ~repeat))]
    tied = _equal_to_next(order, slots, event_us)
    if by_id and tied.any():
        _settle(order, tied, found)
    return order


def _equal_to_next(order: Ints, *columns: NDArray[np.int64]) -> NDArray[np.bool_]:
    equal = np.ones(max(len(order) - 1, 0), dtype=np.bool_)
    for column in columns:
        ordered = column[order]
        equal &= ordered[1:] == ordered[:-1]
    return equal


def _settle(order: Ints, tied: NDArray[np.bool_], found: Sequence[Found]) -> None:
    """Sort rows of equal event time by their ids as bytes, which only the runs know."""
    group = np.concatenate(([0], (~tied).cumsum()))
    places = np.flatnonzero(np.bincount(group)[group] > 1)
    # Row after row of each run: as they lie in what was gathered.
    by_row = np.argsort(order[places])
    places = places[by_row]
    begins = np.cumsum([0, *(len(each.rows) for each in found)])
    cuts = order[places].searchsorted(begins)
    parts = [
        each.run.ids_of(each.rows[order[places[first:last]] - begin])
        for each, begin, first, last in zip(found, begins, cuts, cuts[1:], strict=False)
    ]
    by_text = joined_ids(parts).order(within=group[places])
    order[np.sort(places)] = order[places[by_text]]

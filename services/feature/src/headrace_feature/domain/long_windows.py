# SPDX-License-Identifier: Apache-2.0
"""Windows that hold very many observations of one entity: by tiles, and rows where tiles say no.

A tile counts whole when all of it is inside the window, was known, and no other run has a row of
the entity in its stretch of time: such a row might be a repeat. The rows of all other tiles, and
those that have none, are looked at as in any window. All is added up exactly and rounded once, so
that the bits are those of the short way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import mul

import numpy as np
from numpy.typing import NDArray

from headrace_feature.domain import tiles as tiled
from headrace_feature.domain.aggregates import Values, wholes_of
from headrace_feature.domain.edges import Window
from headrace_feature.domain.exact import rounded, std_of
from headrace_feature.domain.gathering import Block, Found, block_of
from headrace_feature.domain.observations import COLUMNS, EVENT, FLAGS, KNOWN, AnyRun, Ints
from headrace_feature.domain.plans import Asked, WindowPart
from headrace_feature.domain.tiles import DIGIT_BITS, ColumnTiles, Tiles, tiles_of
from headrace_feature.domain.views import DTYPE_BY_KIND, Kind

# So many rows of an entity for each question are worth what tiles cost.
ROWS_MIN = 8_192
TILED_ROWS_MIN = 8 * tiled.TILE_ROWS
# What tiles can answer; the others need every value.
TILED = frozenset({"count", "sum", "mean", "std", "min", "max", "first", "last", "last_n"})
NEWEST, OLDEST = ("last", "last_n"), ("first",)


@dataclass(frozen=True, slots=True, eq=False)
class LongEntity:
    """An entity with many rows. `places`: its place in each of `runs`; `rows`: who asks for it."""

    part: WindowPart
    runs: Sequence[AnyRun]
    places: Sequence[int]
    rows: Ints

    def answer(self, as_of_us: Ints, answers: NDArray[np.float64]) -> None:
        """Fill the part's slots in the rows that ask for it."""
        by_window: dict[Window, list[Asked]] = {}
        for asked in self.part.asked:
            by_window.setdefault(Window.of(asked.feature), []).append(asked)
        for row in self.rows.tolist():
            for window, wanted in by_window.items():
                since_us, until_us = window.edges(as_of_us[row : row + 1])
                sight = _Sight(int(since_us[0]), int(until_us[0]), int(as_of_us[row]))
                seen = _Seen.of(self, sight, wanted)
                for asked in wanted:
                    answers[row, asked.slot] = seen.value(asked)


def is_long(part: WindowPart, rows: int, questions: int) -> bool:
    """Whether an entity with so many rows is better answered here."""
    tiled = all(asked.feature.aggregate in TILED for asked in part.asked)
    return rows >= ROWS_MIN * questions and tiled and not part.lookups


@dataclass(frozen=True, slots=True)
class _Sight:
    """Event times in (since, until], known times up to the moment."""

    since_us: int
    until_us: int
    known_us: int


@dataclass(slots=True, eq=False)
class _Stretch:
    """The entity's rows `first` to `last` of one run, and which tiles among them count whole."""

    run: AnyRun
    place: int
    first: int
    last: int
    tiles: Tiles | None = None
    whole: Ints | None = None  # numbers of tiles, growing

    def rows(self) -> Ints:
        """Those that are looked at one by one."""
        if self.tiles is None or self.whole is None or not len(self.whole):
            return np.arange(self.first, self.last)
        begins = self.tiles.first + tiled.TILE_ROWS * self.whole
        starts = np.concatenate(([self.first], begins + tiled.TILE_ROWS))
        lengths = np.concatenate((begins, [self.last])) - starts
        gaps = [
            np.arange(s, s + n)
            for s, n in zip(starts.tolist(), lengths.tolist(), strict=True)
            if n > 0
        ]
        return np.concatenate(gaps) if gaps else np.empty(0, dtype=np.int64)


def _stretches(entity: LongEntity, sight: _Sight) -> list[_Stretch]:
    """Of each run; the scale may find a little more at both ends."""
    found = []
    since, until = np.array([sight.since_us]), np.array([sight.until_us])
    for run, place in zip(entity.runs, entity.places, strict=True):
        first, last = run.ranges(np.array([place]), since, until)
        if last[0] > first[0]:
            found.append(_Stretch(run, place, int(first[0]), int(last[0])))
    for stretch in found:
        if stretch.last - stretch.first >= TILED_ROWS_MIN:
            _find_whole(stretch, [each for each in found if each is not stretch], sight)
    return found


def _find_whole(stretch: _Stretch, others: Sequence[_Stretch], sight: _Sight) -> None:
    tiles = tiles_of(stretch.run, stretch.place)
    inside = (tiles.begins_us > sight.since_us) & (tiles.ends_us <= sight.until_us)
    inside &= ~tiles.twice & (tiles.known_us <= sight.known_us)
    for other in others:
        inside[_met(tiles, other)] = False
    stretch.tiles, stretch.whole = tiles, np.flatnonzero(inside)


def _met(tiles: Tiles, other: _Stretch) -> Ints:
    """Tiles in whose stretch of time the other run has a row."""
    edges = np.array([tiles.begins_us[0] - 1]), np.array([tiles.ends_us[-1]])
    first, last = other.run.ranges(np.array([other.place]), *edges)
    times_us = other.run.stretch(max(int(first[0]), 0), int(last[0]))[:, EVENT]
    tile = tiles.ends_us.searchsorted(times_us, "left")
    within = tile < len(tiles)
    tile, times_us = tile[within], times_us[within]
    return tile[tiles.begins_us[tile] <= times_us]


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What one question sees: whole tiles, and rows in order of (event time, id)."""

    entity: LongEntity
    stretches: Sequence[_Stretch]
    rows: Ints
    exact: dict[int, _Exact] = field(default_factory=dict)  # by column

    @classmethod
    def of(cls, entity: LongEntity, sight: _Sight, wanted: Sequence[Asked]) -> _Seen:
        stretches = _stretches(entity, sight)
        for asked in wanted:
            for stretch in stretches:
                _open_ends(stretch, asked, entity.part.layout.kinds)
        by_id = any(asked.feature.aggregate in (*NEWEST, *OLDEST) for asked in wanted)
        block = _listed(entity, stretches, by_id=by_id)
        event_us, known_us = block.matrix[:, EVENT], block.matrix[:, KNOWN]
        seen = (event_us > sight.since_us) & (event_us <= sight.until_us)
        return cls(entity, stretches, block.matrix[seen & (known_us <= sight.known_us)])

    def value(self, asked: Asked) -> float:
        name = asked.feature.aggregate
        if name == "count":
            of_tiles = sum(len(whole) for _, _, whole in self._whole())
            return float(len(self.rows) + tiled.TILE_ROWS * of_tiles)
        values = self._values(asked)
        if name in (*NEWEST, *OLDEST):
            place = 0 if name in OLDEST else len(values) - 1 - asked.place
            return float(values[place]) if 0 <= place < len(values) else math.nan
        tiles = list(self._columns(asked))
        if name in ("min", "max"):
            return _extreme(name, values, tiles)
        if asked.column not in self.exact:
            self.exact[asked.column] = _Exact.of(values, tiles)
        return self.exact[asked.column].value(name)

    def _values(self, asked: Asked) -> Values:
        layout, place = self.entity.part.layout, asked.column
        present = (self.rows[:, FLAGS] >> place & 1).astype(np.bool_)
        return self.rows[present, COLUMNS + place].view(DTYPE_BY_KIND[layout.kinds[place]])

    def _whole(self) -> Iterator[tuple[AnyRun, Tiles, Ints]]:
        for stretch in self.stretches:
            if stretch.tiles is not None and stretch.whole is not None and len(stretch.whole):
                yield stretch.run, stretch.tiles, stretch.whole

    def _columns(self, asked: Asked) -> Iterator[tuple[ColumnTiles, Ints]]:
        kind = self.entity.part.layout.kinds[asked.column]
        for run, tiles, whole in self._whole():
            yield tiles.column(run, asked.column, kind), whole


def _open_ends(stretch: _Stretch, asked: Asked, kinds: Sequence[Kind]) -> None:
    """Take from the whole tiles those whose rows a feature must see."""
    name = asked.feature.aggregate
    if stretch.tiles is None or stretch.whole is None or name in ("count", "min", "max"):
        return
    column = stretch.tiles.column(stretch.run, asked.column, kinds[asked.column])
    whole = stretch.whole
    if name in NEWEST:
        after = column.counts[whole][::-1].cumsum()[::-1] - column.counts[whole]
        stretch.whole = whole[after > asked.place]
    elif name in OLDEST:
        before = column.counts[whole].cumsum() - column.counts[whole]
        stretch.whole = whole[before > 0]
    elif column.sums is None:
        stretch.whole = whole[:0]


def _listed(entity: LongEntity, stretches: Sequence[_Stretch], *, by_id: bool) -> Block:
    parts = [(each.run, each.rows()) for each in stretches]
    found = [Found(run, rows, np.zeros(len(rows), dtype=np.int64)) for run, rows in parts]
    width = COLUMNS + entity.part.layout.width
    return block_of(found, entities=1, width=width, by_id=by_id)


def _extreme(name: str, values: Values, tiles: Sequence[tuple[ColumnTiles, Ints]]) -> float:
    pick = min if name == "min" else max
    parts = [pick(values.tolist())] if len(values) else []
    for column, whole in tiles:
        extremes = column.least if name == "min" else column.greatest
        filled = whole[column.counts[whole] > 0]
        parts += [pick(extremes[filled].tolist())] if len(filled) else []
    return float(pick(parts)) if parts else math.nan


@dataclass(frozen=True, slots=True)
class _Exact:
    """How many values, and the exact sums of them and their squares: times 2**unit, 2**(2 unit)."""

    count: int
    total: int
    square: int
    unit: int

    @classmethod
    def of(cls, values: Values, tiles: Sequence[tuple[ColumnTiles, Ints]]) -> _Exact:
        wholes, own = wholes_of(values)
        sums = [(sum(wholes), own), *(_added(c.sums, c.unit, w) for c, w in tiles)]
        squares = [(sum(map(mul, wholes, wholes)), 2 * own)]
        squares += [_added(c.squares, 2 * c.unit, w) for c, w in tiles]
        unit = min(each for _, each in sums)
        count = len(values) + sum(int(column.counts[whole].sum()) for column, whole in tiles)
        return cls(count, _aligned(sums, unit), _aligned(squares, 2 * unit), unit)

    def value(self, name: str) -> float:
        if name == "std":
            return std_of(self.count * self.square - self.total**2, self.unit, self.count)
        total = rounded(self.total << max(self.unit, 0), 1 << max(-self.unit, 0))
        return total / (self.count if name == "mean" else 1) if self.count else math.nan


def _added(digits: Ints | None, unit: int, whole: Ints) -> tuple[int, int]:
    if digits is None:
        return 0, unit
    of_whole = digits[:, whole]
    low, high = (of_whole & 0xFFFFFFFF).sum(axis=1), (of_whole >> 32).sum(axis=1)
    totals = [(h << 32) + each for each, h in zip(low.tolist(), high.tolist(), strict=True)]
    return sum(each << (DIGIT_BITS * place) for place, each in enumerate(totals)), unit


def _aligned(parts: Sequence[tuple[int, int]], unit: int) -> int:
    return sum(whole << (own - unit) for whole, own in parts)

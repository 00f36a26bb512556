# SPDX-License-Identifier: Apache-2.0
"""Tiles: exact partial aggregates of an entity's rows in one run, so many rows at a time.

A run never changes, so what was added up once stays right: tiles are made when a long window first
asks for them and live with the run. They hold whole numbers, so that nothing is rounded: a value is
a whole number of 2**unit, cut into digits of DIGIT_BITS; the sums of a tile's digits, and of their
products, stay in int64.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace_feature.domain.observations import (
    COLUMNS,
    EVENT,
    FLAGS,
    ID_HASH,
    KNOWN,
    AnyRun,
    Ints,
)
from headrace_feature.domain.views import DTYPE_BY_KIND, Kind

Values = NDArray[Any]  # int64 or float64
TILE_ROWS = 256
# TILE_ROWS products of two digits, and as many of them as DIGITS_MAX, fit int64.
DIGIT_BITS, DIGITS_MAX = 26, 5
MASK = (1 << DIGIT_BITS) - 1


@dataclass(frozen=True, slots=True, eq=False)
class ColumnTiles:
    """One column by tile: how many values, their least and greatest, and exact sums.

    `sums`, `squares`: [digits, tiles], digit k counts 2**(DIGIT_BITS * k) times 2**unit or its
    square; None where the values lie too far apart for DIGITS_MAX digits.
    """

    counts: Ints
    least: Values
    greatest: Values
    unit: int
    sums: Ints | None
    squares: Ints | None


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """Rows `first` to `first + TILE_ROWS * tiles` of a run, one entity's; the rest has no tile.

    `begins_us`, `ends_us`: the first and last event time of each; `known_us`: the last known time;
    `twice`: whether a row may be a repeat of one that the run holds too.
    """

    first: int
    begins_us: Ints
    ends_us: Ints
    known_us: Ints
    twice: NDArray[np.bool_]
    columns: dict[int, ColumnTiles] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.begins_us)

    def column(self, run: AnyRun, place: int, kind: Kind) -> ColumnTiles:
        """Of the layout's column at this place. `run`: whose tiles these are; it holds them."""
        if place not in self.columns:
            rows = run.stretch(self.first, self.first + len(self) * TILE_ROWS)
            values = rows[:, COLUMNS + place].view(DTYPE_BY_KIND[kind])
            present = (rows[:, FLAGS] >> place & 1).astype(np.bool_)
            self.columns[place] = _column_tiles(values, present)
        return self.columns[place]


def tiles_of(run: AnyRun, place: int) -> Tiles:
    """Those of the entity at this place of the run."""
    if place not in run.tiles:
        first, last = (int(edge[0]) for edge in run.bounds(np.array([place])))
        rows = run.stretch(first, last)
        tiled = rows[: len(rows) - len(rows) % TILE_ROWS]
        run.tiles[place] = Tiles(
            first,
            tiled[::TILE_ROWS, EVENT].copy(),
            tiled[TILE_ROWS - 1 :: TILE_ROWS, EVENT].copy(),
            tiled[:, KNOWN].reshape(-1, TILE_ROWS).max(axis=1),
            _twice(rows),
        )
    return run.tiles[place]


def _twice(rows: Ints) -> NDArray[np.bool_]:
    """Repeats, which came by two partitions, lie side by side."""
    same = (rows[1:, EVENT] == rows[:-1, EVENT]) & (rows[1:, ID_HASH] == rows[:-1, ID_HASH])
    tiles = np.zeros(len(rows) // TILE_ROWS + 1, dtype=np.bool_)
    for side in (0, 1):
        tiles[(np.flatnonzero(same) + side) // TILE_ROWS] = True
    return tiles[:-1]


def _column_tiles(values: Values, present: NDArray[np.bool_]) -> ColumnTiles:
    limits = np.iinfo(values.dtype) if values.dtype == np.int64 else np.finfo(values.dtype)
    by_tile = present.reshape(-1, TILE_ROWS)
    wholes, shifts, unit = _wholes(np.where(present, values, values.dtype.type(0)))
    digits = _digits(wholes, shifts)
    return ColumnTiles(
        counts=by_tile.sum(axis=1),
        least=np.where(present, values, limits.max).reshape(-1, TILE_ROWS).min(axis=1),
        greatest=np.where(present, values, limits.min).reshape(-1, TILE_ROWS).max(axis=1),
        unit=unit,
        sums=_sums(digits) if digits is not None else None,
        squares=_squares(digits) if digits is not None else None,
    )


def _wholes(values: Values) -> tuple[Ints, Ints, int]:
    """Each value is its whole number times 2**(its shift + unit)."""
    if values.dtype == np.int64:
        return values, np.zeros(len(values), dtype=np.int64), 0
    mantissas, exponents = np.frexp(values)
    wholes, exponents = (mantissas * 2.0**53).astype(np.int64), exponents.astype(np.int64)
    some = wholes != 0
    # A zero is a whole number of anything.
    unit = int(exponents[some].min(initial=0 if not some.any() else 2**31))
    return wholes, np.where(some, exponents - unit, 0), unit - 53


def _digits(wholes: Ints, shifts: Ints) -> list[Ints] | None:
    """The lowest first, each with the sign of its number."""
    size, sign = np.abs(wholes).view(np.uint64), np.sign(wholes)
    bits = int(np.log2(np.maximum(size, 1).astype(np.float64)).max(initial=0)) + 2
    needed = -(-(bits + int(shifts.max(initial=0))) // DIGIT_BITS)
    if needed > DIGITS_MAX:
        return None
    return [_digit(size, shifts - DIGIT_BITS * place) * sign for place in range(needed)]


def _digit(size: NDArray[np.uint64], shift: Ints) -> Ints:
    """The lowest DIGIT_BITS of each number times 2**shift."""
    up = np.minimum(np.maximum(shift, 0), DIGIT_BITS).astype(np.uint64)
    down = np.minimum(np.maximum(-shift, 0), 63).astype(np.uint64)
    mask = np.uint64(MASK)
    return ((((size >> down) & (mask >> up)) << up) & mask).astype(np.int64)


def _sums(digits: list[Ints]) -> Ints:
    return np.stack([digit.reshape(-1, TILE_ROWS).sum(axis=1) for digit in digits])


def _squares(digits: list[Ints]) -> Ints:
    totals = np.zeros((2 * len(digits) - 1, len(digits[0]) // TILE_ROWS), dtype=np.int64)
    for low, left in enumerate(digits):
        for high, right in enumerate(digits):
            totals[low + high] += (left * right).reshape(-1, TILE_ROWS).sum(axis=1)
    return totals

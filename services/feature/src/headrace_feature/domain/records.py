# SPDX-License-Identifier: Apache-2.0
"""Archived records as columns, and the numbers of their entities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.entity import text_of

# Of some records, the order of their event ids as bytes: equal for equal ids.
RankIds = Callable[[NDArray[np.intp]], NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Share:
    """One of `of` parts of all entities."""

    number: int
    of: int


@dataclass(frozen=True, slots=True)
class Numbers:
    """One column: int64 or float64 `values`, anything where not `present`."""

    values: NDArray[np.int64] | NDArray[np.float64]
    present: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Texts:
    """One column: `values[codes]`, absent where the code is -1; no value is there twice."""

    codes: NDArray[np.int64]
    values: Sequence[str]


@dataclass(frozen=True, slots=True)
class Records:
    """Records of one stream, in no order; every array has one entry per record."""

    rank_ids: RankIds
    event_us: NDArray[np.int64]
    known_us: NDArray[np.int64]
    columns: Mapping[str, Texts | Numbers]


def numbers_of(column: Texts | Numbers) -> Numbers:
    """Texts have no numbers: all are absent."""
    if isinstance(column, Numbers):
        return column
    rows = len(column.codes)
    return Numbers(np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=np.bool_))


def texts_of(column: Texts | Numbers) -> Texts:
    """As an entity is spelled."""
    if isinstance(column, Numbers):
        distinct, codes = np.unique(column.values, return_inverse=True)
        spelled = [text_of(value) for value in distinct.tolist()]
        codes = np.where(column.present, codes, -1)
    else:
        spelled, codes = [text_of(value) for value in column.values], column.codes
    absent = np.array([*(text is None for text in spelled), True], dtype=np.bool_)
    return Texts(np.where(absent[codes], -1, codes), [text or "" for text in spelled])


class Entities:
    """The entities of a set of records, each with a number; -1 is none."""

    def __init__(self, columns: Sequence[Texts]) -> None:
        self._places = [_places(column) for column in columns]
        codes = self._combined([column.codes for column in columns])
        self._distinct: NDArray[np.int64] | None = None
        if len(columns) > 1:
            self._distinct, codes = np.unique(codes, return_inverse=True)
            codes = codes - np.searchsorted(self._distinct, 0)
        self.numbers = np.maximum(codes, -1)
        self.count = len(self._distinct if self._distinct is not None else self._places[0])

    def numbers_of(self, columns: Sequence[Texts]) -> NDArray[np.int64]:
        """Of the same columns elsewhere; an entity that is not among ours is none."""
        moved = []
        for column, places in zip(columns, self._places, strict=True):
            ours = [places.get(value, -1) for value in column.values]
            moved.append(np.array([*ours, -1], dtype=np.int64)[column.codes])
        codes = self._combined(moved)
        if self._distinct is None:
            return codes
        named = self._distinct[np.searchsorted(self._distinct, 0) :]
        number = np.minimum(np.searchsorted(named, codes), len(named) - 1)
        return np.where(named[number] == codes, number, -1) if len(named) else np.minimum(codes, -1)

    def _combined(self, columns: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        """One number for each combination; -1 with one absent."""
        code = np.zeros(len(columns[0]), dtype=np.int64)
        absent = np.zeros(len(code), dtype=np.bool_)
        for own, places in zip(columns, self._places, strict=True):
            absent |= own < 0
            code = code * len(places) + own
        return np.where(absent, -1, code)


def _places(column: Texts) -> dict[str, int]:
    return {value: code for code, value in enumerate(column.values)}

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
# Of some records, what decides between those that are alike: keys of a sort, the last one first.
Contents = Callable[[NDArray[np.intp]], Sequence[NDArray[np.int64]]]


@dataclass(frozen=True, slots=True)
class Share:
    """One of `of` parts of all entities."""

    number: int
    of: int


@dataclass(frozen=True, slots=True)
class Numbers:
    """One column: int64 or float64 `values`, anything where not `present`.

    `truths`: 0 and 1 stand for false and true, which is how an entity of them is spelled.
    """

    values: NDArray[np.int64] | NDArray[np.float64]
    present: NDArray[np.bool_]
    truths: bool = False


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
        spelled = [text_of(bool(each) if column.truths else each) for each in distinct.tolist()]
        codes = np.where(column.present, codes, -1)
    else:
        spelled, codes = [text_of(value) for value in column.values], column.codes
    absent = np.array([*(text is None for text in spelled), True], dtype=np.bool_)
    return Texts(np.where(absent[codes], -1, codes), [text or "" for text in spelled])


class Entities:
    """The entities of a set of records, each with a number; -1 is none."""

    def __init__(self, columns: Sequence[Texts]) -> None:
        self._places = [_places(column) for column in columns]
        # By column behind the first: the combinations with those before it, in order.
        self._combined: list[NDArray[np.int64]] = []
        numbers = columns[0].codes
        for column, places in zip(columns[1:], self._places[1:], strict=True):
            code = _combined(numbers, column.codes, len(places))
            distinct, place = np.unique(code, return_inverse=True)
            absent = np.searchsorted(distinct, 0)
            self._combined.append(distinct[absent:])
            numbers = place - absent
        self.numbers = np.maximum(numbers, -1)
        self.count = len(self._combined[-1] if self._combined else self._places[0])

    def numbers_of(self, columns: Sequence[Texts]) -> NDArray[np.int64]:
        """Of the same columns elsewhere; an entity that is not among ours is none."""
        numbers, *others = map(_moved, columns, self._places)
        for own, places, distinct in zip(others, self._places[1:], self._combined, strict=True):
            numbers = _place_in(distinct, _combined(numbers, own, len(places)))
        return numbers


def _moved(column: Texts, places: Mapping[str, int]) -> NDArray[np.int64]:
    """The column's codes as those of the same texts elsewhere."""
    ours = [places.get(value, -1) for value in column.values]
    return np.array([*ours, -1], dtype=np.int64)[column.codes]


def _combined(
    numbers: NDArray[np.int64], codes: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """One number for each combination, -1 with one absent; within int64, for both are numbers of
    what there is, and not products of such."""
    return np.where((numbers < 0) | (codes < 0), -1, numbers * count + codes)


def _place_in(distinct: NDArray[np.int64], codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each stands among those in order; -1 for one that does not, as a negative one."""
    if not len(distinct):
        return np.full(len(codes), -1, dtype=np.int64)
    place = np.minimum(np.searchsorted(distinct, codes), len(distinct) - 1)
    return np.where(distinct[place] == codes, place, -1)


def _places(column: Texts) -> dict[str, int]:
    return {value: code for code, value in enumerate(column.values)}

# SPDX-License-Identifier: Apache-2.0
"""Archived records as columns, and one numbering of the entities in two sets of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace_feature.domain.entities import text_of


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
    """Records of one stream, in no order; every array has one entry per record.

    `id_rank`: order of the event ids as bytes, equal for equal ids.
    """

    id_rank: NDArray[np.int64]
    event_us: NDArray[np.int64]
    known_us: NDArray[np.int64]
    columns: Mapping[str, Texts | Numbers]

    def numbers(self, column: str) -> Numbers:
        """Texts have no numbers: all are absent."""
        found = self.columns[column]
        if isinstance(found, Numbers):
            return found
        rows = len(found.codes)
        return Numbers(np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=np.bool_))

    def texts(self, column: str) -> Texts:
        """As an entity is spelled."""
        found = self.columns[column]
        if isinstance(found, Numbers):
            distinct, codes = np.unique(found.values, return_inverse=True)
            spelled = [text_of(value) for value in distinct.tolist()]
            codes = np.where(found.present, codes, -1)
        else:
            spelled, codes = [text_of(value) for value in found.values], found.codes
        absent = np.array([*(text is None for text in spelled), True], dtype=np.bool_)
        return Texts(np.where(absent[codes], -1, codes), [text or "" for text in spelled])

    def taken(self, rows: NDArray[np.intp]) -> Records:
        """These rows in this order."""
        return Records(
            self.id_rank[rows],
            self.event_us[rows],
            self.known_us[rows],
            {name: _taken(column, rows) for name, column in self.columns.items()},
        )


def once_each(records: Records) -> Records:
    """Repeats of an id are left out: the first known stays."""
    order = np.lexsort((records.event_us, records.known_us, records.id_rank))
    rank = records.id_rank[order]
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = rank[1:] != rank[:-1]
    return records if first.all() else records.taken(order[first])


def numbered(
    left: Sequence[Texts], right: Sequence[Texts]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One number for each combination of values, the same on both sides; -1 with one absent."""
    rows = len(left[0].codes)
    number = np.zeros(rows + len(right[0].codes), dtype=np.int64)
    absent = np.zeros(len(number), dtype=np.bool_)
    for ours, theirs in zip(left, right, strict=True):
        place = {value: code for code, value in enumerate(ours.values)}
        moved = [place.setdefault(value, len(place)) for value in theirs.values]
        code = np.concatenate((ours.codes, np.array([*moved, -1], dtype=np.int64)[theirs.codes]))
        absent |= code < 0
        number = np.unique(number * len(place) + code, return_inverse=True)[1]
    number = np.where(absent, -1, number)
    return number[:rows], number[rows:]


def _taken(column: Texts | Numbers, rows: NDArray[np.intp]) -> Texts | Numbers:
    if isinstance(column, Texts):
        return Texts(column.codes[rows], column.values)
    return Numbers(column.values[rows], column.present[rows])

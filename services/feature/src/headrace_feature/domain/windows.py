# SPDX-License-Identifier: Apache-2.0
"""The online read: every window of many rows at once, by listing the observations in each.

A question is a row (entity, as_of) and a window: it sees an observation when event time is in
(as_of - window, as_of] and known time is at most as_of. What it sees is one run; what is absent in
a column is replaced by what leaves the aggregate as it is. Questions are taken in pieces, so that
the pairs of question and observation that are in memory at one time stay bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace_feature.domain.exact import INT64_SAFE, rounded, sum_of_floats
from headrace_feature.domain.tiles import COLUMNS, EVENT, KNOWN, PRESENT
from headrace_feature.domain.views import PLANS_MAX, Kind, WindowPart

PAIRS_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class EntityRows:
    """Which rows of the request ask for an entity, and where its observations are."""

    rows: Sequence[int] | slice
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Block:
    """Observations of some entities, one after the other, each in order of (event time, id).

    `matrix`: [observations, 3 + columns] int64 as in tiles. A row without entity is in none.
    """

    matrix: NDArray[np.int64]
    entities: Sequence[EntityRows]


@dataclass(frozen=True, slots=True)
class _Group:
    """Features of one aggregate over columns of one kind, computed together.

    `columns`: places in the layout, none for count. `picks`: (feature, window, column) numbers.
    """

    aggregate: str
    kind: Kind
    columns: NDArray[np.int64]
    picks: Sequence[tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class _Runs:
    """What questions see: `observations` in runs end to end, none of them empty."""

    questions: NDArray[np.int64]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    observations: NDArray[np.int64]


def answer(part: WindowPart, block: Block, as_of_us: NDArray[np.int64]) -> NDArray[np.float64]:
    """[rows, features of the part]; NaN where a window holds no value."""
    windows_us, groups = _grouped(part)
    edges = _edges(block, as_of_us - windows_us[:, None])
    first, last = edges[1:].ravel(), np.concatenate([edges[0]] * (len(edges) - 1))
    asked_us = np.concatenate([as_of_us] * (len(edges) - 1))
    empty = [0.0 if group.aggregate == "count" else np.nan for group in groups]
    grids = [
        np.full((len(first), len(group.columns) or 1), value)
        for group, value in zip(groups, empty, strict=True)
    ]
    for piece in _pieces(last - first):
        runs = _runs(block.matrix, first[piece], last[piece], asked_us[piece])
        if len(runs.questions):
            seen = block.matrix[runs.observations]
            for group, grid in zip(groups, grids, strict=True):
                grid[piece][runs.questions] = _aggregate(group, seen, runs)
    answers = np.empty((len(as_of_us), len(part.features)))
    for group, grid in zip(groups, grids, strict=True):
        by_window = grid.reshape(len(edges) - 1, len(as_of_us), -1)
        for feature, window, column in group.picks:
            answers[:, feature] = by_window[window, :, column]
    return answers


@lru_cache(maxsize=16 * PLANS_MAX)
def _grouped(part: WindowPart) -> tuple[NDArray[np.int64], Sequence[_Group]]:
    """Zero and the windows in microseconds, and the features in groups."""
    windows_s = sorted({feature.window_s for feature in part.features})
    places_by_group: dict[tuple[str, Kind], list[int]] = {}
    for place, feature in enumerate(part.features):
        kind = (
            part.layout.kinds[part.layout.columns.index(feature.column)]
            if feature.column
            else "int64"
        )
        places_by_group.setdefault((feature.aggregate, kind), []).append(place)
    groups = []
    for (aggregate, kind), places in places_by_group.items():
        names = sorted({part.features[place].column or "" for place in places} - {""})
        picks = [
            (
                place,
                windows_s.index(part.features[place].window_s),
                names.index(part.features[place].column or "") if names else 0,
            )
            for place in places
        ]
        columns = np.array([part.layout.columns.index(name) for name in names], dtype=np.int64)
        groups.append(_Group(aggregate, kind, columns, picks))
    return 1_000_000 * np.array([0, *windows_s], dtype=np.int64), groups


def _edges(block: Block, until_us: NDArray[np.int64]) -> NDArray[np.int64]:
    """[moments, rows]: number of the first observation of the row's entity after the moment."""
    edges = np.zeros(until_us.shape, dtype=np.int64)
    event_us = np.ascontiguousarray(block.matrix[:, EVENT])
    for entity in block.entities:
        own_us = event_us[entity.first : entity.last]
        asked_us = until_us[:, entity.rows]
        edges[:, entity.rows] = own_us.searchsorted(asked_us, "right") + entity.first
    return edges


def _pieces(lengths: NDArray[np.int64]) -> Iterator[slice]:
    """Runs of questions with at most PAIRS_MAX observations together, or one question."""
    ends, start = lengths.cumsum(), 0
    while start < len(lengths):
        before = ends[start - 1] if start else 0
        stop = max(int(ends.searchsorted(before + PAIRS_MAX, "right")), start + 1)
        yield slice(start, stop)
        start = stop


def _runs(
    matrix: NDArray[np.int64],
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    asked_us: NDArray[np.int64],
) -> _Runs:
    """Of each question's range, what was known."""
    counts = last - first
    question = np.arange(len(first)).repeat(counts)
    observations = np.arange(len(question)) + (last - counts.cumsum())[question]
    known = matrix[observations, KNOWN] <= asked_us[question]
    if not known.all():
        observations = observations[known]
        counts = np.bincount(question[known], minlength=len(first))
    questions = counts.nonzero()[0]
    return _Runs(questions, (counts.cumsum() - counts)[questions], counts[questions], observations)


def _aggregate(group: _Group, seen: NDArray[np.int64], runs: _Runs) -> NDArray[np.float64]:
    """[runs, columns], of `seen`: the observations of the runs."""
    counts = runs.counts[:, None]
    if group.aggregate == "count":
        return counts.astype(np.float64)
    values = seen[:, COLUMNS + group.columns].view(group.kind)
    present = (seen[:, PRESENT, None] >> group.columns & 1).astype(np.bool_)
    if not present.all():
        counts = np.add.reduceat(present, runs.starts, dtype=np.int64)
        values = np.where(present, values, _NEUTRAL[group.aggregate](values))
    if group.aggregate == "last":
        place = np.where(present, np.arange(len(values))[:, None], 0)
        places = np.maximum.reduceat(place, runs.starts)
        answers = values[places, np.arange(len(group.columns))].astype(np.float64)
    else:
        answers = _REDUCE[group.aggregate](values, runs.starts)
    if group.aggregate == "mean":
        answers = answers / np.maximum(counts, 1)
    return np.where(counts > 0, answers, np.nan)


def _least(values: NDArray[Any], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.minimum.reduceat(values, starts).astype(np.float64)


def _most(values: NDArray[Any], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.maximum.reduceat(values, starts).astype(np.float64)


def _sum(values: NDArray[Any], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Exact, then rounded once."""
    whole = values.dtype == np.int64
    if whole and max(int(values.max()), -int(values.min())) * len(values) < INT64_SAFE:
        return np.add.reduceat(values, starts).astype(np.float64)
    add = _sum_of_wholes if whole else sum_of_floats
    ends = [*starts[1:].tolist(), len(values)]
    runs = [slice(start, end) for start, end in zip(starts.tolist(), ends, strict=True)]
    columns = [column.tolist() for column in values.T]
    return np.array([[add(column[run]) for column in columns] for run in runs])


def _sum_of_wholes(values: Sequence[int]) -> float:
    return rounded(sum(values), 1)


def _zero(values: NDArray[Any]) -> Any:
    return values.dtype.type(0)


def _limits(values: NDArray[Any]) -> Any:
    return (np.finfo if values.dtype == np.float64 else np.iinfo)(values.dtype)


_REDUCE = {"min": _least, "max": _most, "sum": _sum, "mean": _sum}
_NEUTRAL = {
    "min": lambda values: _limits(values).max,
    "max": lambda values: _limits(values).min,
    "sum": _zero,
    "mean": _zero,
    "last": _zero,
}

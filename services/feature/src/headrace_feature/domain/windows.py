# SPDX-License-Identifier: Apache-2.0
"""The online read: every window of many rows at once, by listing the observations in each.

A question is a row (entity, as_of) of a view and a window: it sees an observation when event time
is in (as_of - window, as_of] and known time is at most as_of. What it sees is one run; what is
absent in a column is replaced by what leaves the aggregate as it is. Views that are alike are
answered together. Questions are taken in pieces, so that the pairs of question and observation
that are in memory at one time stay bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace_feature.domain.exact import INT64_SAFE, rounded, sum_of_floats
from headrace_feature.domain.gathering import Block
from headrace_feature.domain.observations import COLUMNS, FLAGS, KNOWN
from headrace_feature.domain.views import PLANS_MAX, Kind, Plan, WindowPart

PAIRS_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class _Group:
    """Features of one aggregate over columns of one kind, computed together for all questions.

    `columns`: places in the layout, none for count. `slots`, `windows`, `places`: per feature, its
    place in the answer, which of the family's windows it has, which of `columns`.
    """

    aggregate: str
    kind: Kind
    columns: NDArray[np.int64]
    slots: NDArray[np.int64]
    windows: NDArray[np.int64]
    places: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Family:
    """Parts with equal columns and aggregates; `windows_us` holds the windows of each part."""

    parts: Sequence[WindowPart]
    windows_us: Sequence[NDArray[np.int64]]
    groups: Sequence[_Group]


@dataclass(frozen=True, slots=True)
class Seen:
    """What one part of a family has to see: `slots`: per row its entity's in the block, or -1."""

    block: Block
    slots: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Runs:
    """What questions see: `observations` in runs end to end, none of them empty."""

    questions: NDArray[np.int64]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    observations: NDArray[np.int64]


@lru_cache(maxsize=PLANS_MAX)
def families(plan: Plan) -> Sequence[Family]:
    """The windows of a plan by what their observations hold and what is asked of them."""
    parts = sorted(plan.windows, key=_likeness)
    return [_family(list(alike)) for _, alike in groupby(parts, key=_likeness)]


def _likeness(part: WindowPart) -> tuple[Any, ...]:
    asked = sorted({(feature.column or "", feature.aggregate) for feature in part.features})
    return part.layout.columns, part.layout.kinds, asked


def _family(parts: Sequence[WindowPart]) -> Family:
    windows_s = [sorted({feature.window_s for feature in part.features}) for part in parts]
    columns, kinds = parts[0].layout.columns, parts[0].layout.kinds
    found: dict[tuple[str, Kind], list[tuple[int, int, int]]] = {}
    before = 0
    for part, own_s in zip(parts, windows_s, strict=True):
        for slot, feature in zip(part.slots, part.features, strict=True):
            column = columns.index(feature.column) if feature.column else -1
            kind = kinds[column] if feature.column else "int64"
            window = before + own_s.index(feature.window_s)
            found.setdefault((feature.aggregate, kind), []).append((slot, window, column))
        before += len(own_s)
    return Family(
        parts=parts,
        windows_us=[1_000_000 * np.array(own_s, dtype=np.int64) for own_s in windows_s],
        groups=[_group(*name, picks) for name, picks in found.items()],
    )


def _group(aggregate: str, kind: Kind, picks: Sequence[tuple[int, int, int]]) -> _Group:
    slots, windows, columns = np.array(picks, dtype=np.int64).T
    distinct, places = np.unique(columns, return_inverse=True)
    return _Group(aggregate, kind, distinct[distinct >= 0], slots, windows, places)


def answer(
    family: Family, parts: Sequence[Seen], as_of_us: NDArray[np.int64], answers: NDArray[np.float64]
) -> None:
    """Fill the family's slots of `answers` [rows, features]; NaN where a window holds no value.

    `parts`: one for each part of the family.
    """
    matrix = parts[0].block.matrix
    if len(parts) > 1:
        matrix = np.concatenate([part.block.matrix for part in parts])
    first, last = _ranges(family, parts, as_of_us)
    asked_us = np.concatenate([as_of_us] * (len(first) // len(as_of_us)))
    grids = [_empty(group, len(first)) for group in family.groups]
    for piece in _pieces(last - first):
        runs = _runs(matrix, first[piece], last[piece], asked_us[piece])
        if len(runs.questions):
            seen = matrix[runs.observations]
            for group, grid in zip(family.groups, grids, strict=True):
                grid[piece][runs.questions] = _aggregate(group, seen, runs)
    for group, grid in zip(family.groups, grids, strict=True):
        by_window = grid.reshape(-1, len(as_of_us), grid.shape[1])
        answers[:, group.slots] = by_window[group.windows, :, group.places].T


def _empty(group: _Group, questions: int) -> NDArray[np.float64]:
    grid = np.empty((questions, max(len(group.columns), 1)))
    grid.fill(0.0 if group.aggregate == "count" else np.nan)
    return grid


def _ranges(
    family: Family, parts: Sequence[Seen], as_of_us: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Per question (window by window, row by row), the range of its entity's observations."""
    firsts, lasts, before = [], [], 0
    for windows_us, part in zip(family.windows_us, parts, strict=True):
        named = np.flatnonzero(part.slots >= 0)
        slots, until_us = part.slots[named], as_of_us[named]
        edges_us = until_us - np.concatenate((windows_us, [0]))[:, None]
        found = part.block.first_after(np.tile(slots, len(edges_us)), edges_us.ravel())
        edges = np.zeros((len(edges_us), len(as_of_us)), dtype=np.int64)
        edges[:, named] = found.reshape(edges_us.shape) + before
        firsts.append(edges[:-1].ravel())
        lasts.append(np.tile(edges[-1], len(windows_us)))
        before += len(part.block.matrix)
    return np.concatenate(firsts), np.concatenate(lasts)


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
    present = (seen[:, FLAGS, None] >> group.columns & 1).astype(np.bool_)
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

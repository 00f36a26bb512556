# SPDX-License-Identifier: Apache-2.0
"""Aggregates of many runs of observations at once, as `headrace.feature_view` defines them.

An observation is absent in a column when its bit says so; what is absent is replaced by what leaves
the aggregate as it is, or taken out where there is no such value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import lshift
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.feature_view import Q_UNITS
from headrace_feature.domain.exact import INT64_SAFE, rounded, std_of, std_of_small, sum_of_floats
from headrace_feature.domain.observations import COLUMNS, EVENT, FLAGS
from headrace_feature.domain.views import DTYPE_BY_KIND, Kind

Values = NDArray[Any]  # int64 or float64
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """One aggregate over columns of one kind, computed together for all questions.

    `columns`: places in the layout, none for count. `arguments`, one for each: which value of
    last_n, the newest is 0; of a quantile, the share in ten-thousandths.
    """

    aggregate: str
    kind: Kind
    columns: Ints
    arguments: Ints


@dataclass(frozen=True, slots=True)
class Runs:
    """What questions see: `observations` in runs end to end, none of them empty."""

    questions: Ints
    starts: Ints
    counts: Ints
    observations: Ints


def group_of(aggregate: str, kind: Kind, columns: Ints, arguments: Ints) -> Group:
    named = columns >= 0
    return Group(aggregate, kind, columns[named], arguments[named])


def nothing(group: Group, questions: int) -> Floats:
    """[questions, columns]: what is answered to one that sees nothing."""
    grid = np.empty((questions, max(len(group.columns), 1)))
    grid.fill(0.0 if group.aggregate in ("count", "distinct") else np.nan)
    return grid


def aggregate(group: Group, seen: Ints, runs: Runs) -> Floats:
    """[runs, columns], of `seen`: the observations of the runs."""
    if group.aggregate == "count":
        return runs.counts[:, None].astype(np.float64)
    if group.aggregate == "newest_record":
        return seen[runs.starts + runs.counts - 1, EVENT, None].astype(np.float64)
    values = seen[:, COLUMNS + group.columns].view(DTYPE_BY_KIND[group.kind])
    if group.aggregate == "newest":
        values = np.repeat(seen[:, EVENT, None], len(group.columns), axis=1)
    present = (seen[:, FLAGS, None] >> group.columns & 1).astype(np.bool_)
    if group.aggregate in _OF_PRESENT:
        return _column_by_column(group, values, present, runs)
    counts, whole = runs.counts[:, None], present.all()
    if not whole:
        counts = np.add.reduceat(present, runs.starts, dtype=np.int64)
        values = np.where(present, values, _NEUTRAL[group.aggregate](values))
    if group.aggregate in _ENDS:
        places = _ENDS[group.aggregate](present, runs)
        answers = values[places, np.arange(values.shape[1])].astype(np.float64)
    else:
        answers = _REDUCE[group.aggregate](values, runs.starts)
    if group.aggregate == "mean":
        answers = answers / np.maximum(counts, 1)
    return answers if whole else np.where(counts > 0, answers, np.nan)


def _sum(values: Values, starts: Ints) -> Floats:
    """Exact, then rounded once."""
    whole = values.dtype == np.int64
    if whole and _largest(values) * len(values) < INT64_SAFE:
        return np.add.reduceat(values, starts).astype(np.float64)
    add = _sum_of_wholes if whole else sum_of_floats
    ends = [*starts[1:].tolist(), len(values)]
    runs = [slice(start, end) for start, end in zip(starts.tolist(), ends, strict=True)]
    columns = [column.tolist() for column in values.T]
    return np.array([[add(column[run]) for column in columns] for run in runs])


def _min(values: Values, starts: Ints) -> Floats:
    return np.minimum.reduceat(values, starts).astype(np.float64)


def _max(values: Values, starts: Ints) -> Floats:
    return np.maximum.reduceat(values, starts).astype(np.float64)


def _first(present: Flags, runs: Runs) -> Ints:
    """[runs, columns]: where the first value is that is there."""
    rows = np.arange(len(present))[:, None]
    return np.minimum.reduceat(np.where(present, rows, len(present) - 1), runs.starts)


def _last(present: Flags, runs: Runs) -> Ints:
    rows = np.arange(len(present))[:, None]
    return np.maximum.reduceat(np.where(present, rows, 0), runs.starts)


def _zero(values: Values) -> Any:
    return values.dtype.type(0)


_ENDS = {"first": _first, "last": _last}
_REDUCE = {"sum": _sum, "mean": _sum, "min": _min, "max": _max}
_NEUTRAL: dict[str, Callable[[Values], Any]] = {
    "sum": _zero,
    "mean": _zero,
    "first": _zero,
    "last": _zero,
    "min": lambda values: _limits(values).max,
    "max": lambda values: _limits(values).min,
}


@dataclass(frozen=True, slots=True)
class _Present:
    """The values of one column that are there, in the runs that have some."""

    values: Values
    starts: Ints
    counts: Ints

    def run_of_each(self) -> Ints:
        return np.arange(len(self.counts)).repeat(self.counts)


def _column_by_column(group: Group, values: Values, present: Flags, runs: Runs) -> Floats:
    answers = nothing(group, len(runs.starts))
    run = np.arange(len(runs.counts)).repeat(runs.counts)
    for place, argument in enumerate(group.arguments.tolist()):
        there = present[:, place]
        counts = np.bincount(run[there], minlength=len(runs.counts))
        filled = np.flatnonzero(counts)
        if len(filled):
            counts = counts[filled]
            some = _Present(values[there, place], counts.cumsum() - counts, counts)
            answers[filled, place] = _OF_PRESENT[group.aggregate](some, argument)
    return answers


def _std(some: _Present, _: int) -> Floats:
    ends = (some.starts + some.counts).tolist()
    if some.values.dtype == np.int64 and _largest(some.values) * int(some.counts.max()) < 2**31:
        totals = np.add.reduceat(some.values, some.starts)
        squares = np.add.reduceat(some.values * some.values, some.starts)
        return std_of_small(some.counts * squares - totals * totals, some.counts)
    runs = (some.values[a:b] for a, b in zip(some.starts.tolist(), ends, strict=True))
    return np.array([_std_of_run(run) for run in runs])


def _std_of_run(values: Values) -> float:
    wholes, unit = wholes_of(values)
    total, count = sum(wholes), len(wholes)
    spread = count * sum(whole * whole for whole in wholes) - total * total
    return std_of(spread, unit, count)


def wholes_of(values: Values) -> tuple[list[int], int]:
    """Each value is a whole number of 2**unit."""
    if values.dtype == np.int64 or not len(values):
        return values.tolist(), 0
    mantissas, exponents = np.frexp(values)
    unit = int(exponents.min())
    wholes, shifts = (mantissas * 2.0**53).astype(np.int64).tolist(), (exponents - unit).tolist()
    return list(map(lshift, wholes, shifts)), unit - 53


def _last_n(some: _Present, place: int) -> Floats:
    rows = some.starts + some.counts - 1 - place
    return np.where(place < some.counts, some.values[np.maximum(rows, 0)], np.nan)


def _distinct(some: _Present, _: int) -> Floats:
    run = some.run_of_each()
    order = np.lexsort((some.values, run))
    ordered = some.values[order]
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (ordered[1:] != ordered[:-1]) | (run[1:] != run[:-1])
    return np.add.reduceat(new, some.starts, dtype=np.int64).astype(np.float64)


def _quantile(some: _Present, share: int) -> Floats:
    order = np.lexsort((some.values, some.run_of_each()))
    ranks = -(-share * some.counts // Q_UNITS)
    return some.values[order[some.starts + ranks - 1]].astype(np.float64)


_OF_PRESENT: dict[str, Callable[[_Present, int], Floats]] = {
    "std": _std,
    "last_n": _last_n,
    "newest": _last_n,  # of event times
    "distinct": _distinct,
    "quantile": _quantile,
}


def _largest(values: Values) -> int:
    return max(int(values.max()), -int(values.min()))


def _sum_of_wholes(values: Sequence[int]) -> float:
    return rounded(sum(values), 1)


def _limits(values: Values) -> Any:
    return (np.finfo if values.dtype == np.float64 else np.iinfo)(values.dtype)

# SPDX-License-Identifier: Apache-2.0
"""The offline windows: a point-in-time join by sorting, exact for late records too.

Observations lie in order of (entity, event time, id), so a window is a range of them. What happened
long enough before a row's moment was known then, but for the late ones: of that part, running
totals, running places and tables of extremes answer at once. The newest part and what was late are
listed and looked at one by one; so is the whole window for what has no such table. No code is
shared with the online read but the final rounding, so that their equality says something.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.feature_view import Q_UNITS
from headrace_feature.domain.edges import Window
from headrace_feature.domain.exact import Totals, std
from headrace_feature.domain.records import Numbers, RankIds
from headrace_feature.domain.views import Asked

PAIRS_MAX = 2_000_000
LINE_MAX = 2**62
# Later than this share of all records is late.
PROMPT_SHARE = 0.99
# What is 0 of nothing; all else is absent.
COUNTING = ("count", "distinct")
LISTED = ("std", "last_n", "distinct", "quantile")
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class History:
    """Observations by (entity, event time, id), each once.

    `entity`: a number; `event_us`, `known_us`: [observations]; `columns`: as the layout has them.
    """

    entity: Ints
    event_us: Ints
    known_us: Ints
    columns: Sequence[Numbers]


@dataclass(frozen=True, slots=True)
class Questions:
    """Rows that are asked for: the entity's number (-1: none) and the moment."""

    entity: Ints
    as_of_us: Ints

    def taken(self, rows: Any) -> Questions:
        return Questions(self.entity[rows], self.as_of_us[rows])


def build_history(
    entity: Ints, event_us: Ints, known_us: Ints, rank_ids: RankIds, columns: Sequence[Numbers]
) -> History:
    """Drops observations without entity (-1) and repeats of an id: the first known stays."""
    order = _Line(entity, event_us).order
    order = order[np.searchsorted(entity[order], 0) :]
    order = _settled(order, entity, event_us, known_us, rank_ids)
    return History(
        entity=entity[order],
        event_us=event_us[order],
        known_us=known_us[order],
        columns=[Numbers(each.values[order], each.present[order]) for each in columns],
    )


def _settled(
    order: NDArray[np.intp], entity: Ints, event_us: Ints, known_us: Ints, rank_ids: RankIds
) -> NDArray[np.intp]:
    """Equal event times of an entity in the order of their ids, the first known of an id once."""
    tied = np.zeros(len(order) + 1, dtype=np.bool_)
    tied[1:-1] = (np.diff(entity[order]) == 0) & (np.diff(event_us[order]) == 0)
    doubtful = np.flatnonzero(tied[:-1] | tied[1:])
    if not len(doubtful):
        return order
    rows, group = order[doubtful], np.cumsum(~tied[doubtful])
    rank = rank_ids(rows)
    by_id = np.lexsort((known_us[rows], rank, group))
    order = order.copy()
    order[doubtful] = rows[by_id]
    repeat = (np.diff(group[by_id]) == 0) & (np.diff(rank[by_id]) == 0)
    return np.delete(order, doubtful[1:][repeat])


class Join:
    """One view's history; what several features or many rows need is computed once."""

    def __init__(self, history: History) -> None:
        self.history = history
        self._events = _Line(history.entity, history.event_us)
        lag_us = history.known_us - history.event_us
        last = len(lag_us) - 1
        nth = int(PROMPT_SHARE * last)
        self._prompt_us = max(0, int(np.partition(lag_us, nth)[nth])) if len(lag_us) else 0
        self.prompt = lag_us <= self._prompt_us
        self.late = np.flatnonzero(~self.prompt)
        self.prompt_before, self.late_before = _running(self.prompt), _running(~self.prompt)
        self.count_max = int(np.bincount(history.entity, minlength=1).max())
        self._columns: dict[int, _Column] = {}

    def prepare(self, asked: Sequence[Asked]) -> None:
        """Compute what the answers share; afterwards several threads may ask."""
        nothing = np.empty(0, dtype=np.int64)
        some = _Some(self, Questions(nothing, nothing), {})
        for each in asked:
            some.answer(each)

    def column(self, place: int) -> _Column:
        if place not in self._columns:
            self._columns[place] = _Column(self, self.history.columns[place])
        return self._columns[place]

    def answers(self, questions: Questions, asked: Sequence[Asked]) -> Floats:
        """[rows, asked]; NaN where a window holds no value."""
        order = _Line(questions.entity, questions.as_of_us).order
        ordered = questions.taken(order)
        windows = {Window.of(each.feature) for each in asked}
        whole = {Window.of(each.feature) for each in asked if each.feature.aggregate in LISTED}
        ranges = {window: self._range(ordered, window) for window in windows}
        pairs = np.zeros(len(order), dtype=np.int64)
        for window, each in ranges.items():
            pairs += each.listed(self, whole=window in whole)
        answers = np.empty((len(order), len(asked)))
        for rows in _pieces(pairs):
            taken = {window: each.taken(rows) for window, each in ranges.items()}
            some = _Some(self, ordered.taken(rows), taken)
            for column, one in enumerate(asked):
                answers[order[rows], column] = some.answer(one)
        return answers

    def _range(self, asked: Questions, window: Window) -> _Range:
        since_us, until_us = window.edges(asked.as_of_us)
        sure_us = np.minimum(until_us, asked.as_of_us - self._prompt_us)
        places = [
            self._events.places(asked.entity, edge_us) for edge_us in (since_us, sure_us, until_us)
        ]
        return _Range(places[0], np.maximum(places[0], places[1]), places[2])


@dataclass(frozen=True, slots=True)
class _Range:
    """A window of each row as places in the history: from `first` to before `last`; what is prompt
    before `sure` was known.
    """

    first: Ints
    sure: Ints
    last: Ints

    def taken(self, rows: slice) -> _Range:
        return _Range(self.first[rows], self.sure[rows], self.last[rows])

    def listed(self, join: Join, *, whole: bool) -> Ints:
        """How many observations of each row's window are looked at one by one."""
        if whole:
            return self.last - self.first
        before = join.late_before
        return self.last - self.sure + before[self.sure] - before[self.first]


@dataclass(frozen=True, slots=True)
class _Seen:
    """Observations that were looked at and were known: `place` of each, those of a row together.

    `rows`: the rows that have some, `starts` where theirs begin, `counts` how many.
    """

    place: Ints
    rows: Ints
    starts: Ints
    counts: Ints

    @classmethod
    def of(cls, row: Ints, place: Ints) -> _Seen:
        starts = np.flatnonzero(np.diff(row, prepend=-1))
        return cls(place, row[starts], starts, np.diff(starts, append=len(row)))

    def having(self, present: NDArray[np.bool_]) -> _Seen:
        """Those with a value."""
        if present.all():
            return self
        return _Seen.of(self.rows.repeat(self.counts)[present], self.place[present])


class _Column:
    """Running totals, places and extremes of what is prompt in one column of a history."""

    def __init__(self, join: Join, numbers: Numbers) -> None:
        self._join, self.numbers = join, numbers
        self._counted = numbers.present & join.prompt
        self._extremes: dict[str, _Extremes] = {}

    @cached_property
    def before(self) -> Ints:
        """How many values there are before each place."""
        return _running(self._counted)

    @cached_property
    def totals(self) -> Totals:
        zero = np.zeros(1, dtype=self.numbers.values.dtype)
        values = np.where(self.numbers.present, self.numbers.values, zero)
        return Totals(values, count_max=self._join.count_max)

    @cached_property
    def running(self) -> Ints:
        return self.totals.running(self._counted)

    @cached_property
    def last_before(self) -> Ints:
        """Before each place, the last with a value, or -1."""
        place = np.where(self._counted, np.arange(len(self._counted)), -1)
        return np.concatenate(([-1], np.maximum.accumulate(place)))

    @cached_property
    def first_from(self) -> Ints:
        """From each place on, the first with a value, or the number of places."""
        count = len(self._counted)
        place = np.where(self._counted, np.arange(count), count)
        return np.concatenate((np.minimum.accumulate(place[::-1])[::-1], [count]))

    def extremes(self, aggregate: str) -> _Extremes:
        if aggregate not in self._extremes:
            made = _Extremes(self.numbers.values, self._counted, aggregate)
            self._extremes[aggregate] = made
        return self._extremes[aggregate]


class _Some:
    """Rows whose listed observations fit into memory; what several features need is made once."""

    def __init__(self, join: Join, questions: Questions, ranges: dict[Window, _Range]) -> None:
        self._join, self._questions, self._ranges = join, questions, ranges
        self._seen: dict[tuple[Window, bool], _Seen] = {}
        self._totals: dict[tuple[int, Window], tuple[Ints, Floats]] = {}

    def answer(self, asked: Asked) -> Floats:
        feature, window = asked.feature, Window.of(asked.feature)
        match feature.aggregate:
            case "count":
                return self._count(window)
            case "sum" | "mean":
                counts, sums = self._total(asked.column, window)
                mean = feature.aggregate == "mean"
                return sums / np.maximum(counts, 1) if mean else sums
            case "first" | "last":
                return self._edge(asked.column, window, feature.aggregate)
            case "min" | "max":
                return self._extreme(asked.column, window, feature.aggregate)
            case _:
                return self._listed(asked, window)

    def _range(self, window: Window) -> _Range:
        empty = np.empty(0, dtype=np.int64)
        return self._ranges.get(window, _Range(empty, empty, empty))

    def _looked_at(self, window: Window, *, whole: bool) -> _Seen:
        """What was known at the row's moment: of the whole window, or of its unsure part."""
        if (window, whole) not in self._seen:
            ours, join = self._range(window), self._join
            row, place = _listed(ours.first if whole else ours.sure, ours.last)
            if not whole and len(join.late):
                of_late, late = _listed(join.late_before[ours.first], join.late_before[ours.sure])
                row, place = np.append(of_late, row), np.append(join.late[late], place)
                order = np.argsort(row, kind="stable")
                row, place = row[order], place[order]
            known = join.history.known_us[place] <= self._questions.as_of_us[row]
            self._seen[window, whole] = _Seen.of(row[known], place[known])
        return self._seen[window, whole]

    def _count(self, window: Window) -> Floats:
        ours, before = self._range(window), self._join.prompt_before
        seen = self._looked_at(window, whole=False)
        counts = (before[ours.sure] - before[ours.first]).astype(np.float64)
        counts[seen.rows] += seen.counts
        return counts

    def _total(self, number: int, window: Window) -> tuple[Ints, Floats]:
        """How many values the window holds, and their sum."""
        if (number, window) not in self._totals:
            ours, column = self._range(window), self._join.column(number)
            seen = self._looked_at(window, whole=False)
            seen = seen.having(column.numbers.present[seen.place])
            counts = column.before[ours.sure] - column.before[ours.first]
            counts[seen.rows] += seen.counts
            totals = column.running[ours.sure] - column.running[ours.first]
            if len(seen.rows):
                totals[seen.rows] += np.add.reduceat(column.totals.of(seen.place), seen.starts)
            sums = np.where(counts > 0, column.totals.as_float64(totals), np.nan)
            self._totals[number, window] = counts, sums
        return self._totals[number, window]

    def _edge(self, number: int, window: Window, aggregate: str) -> Floats:
        """The value at the first or last place of the window that has one."""
        ours, column = self._range(window), self._join.column(number)
        seen = self._looked_at(window, whole=False)
        seen = seen.having(column.numbers.present[seen.place])
        nearest: np.ufunc = np.maximum if aggregate == "last" else np.minimum
        if aggregate == "last":
            place = column.last_before[ours.sure]
            place = np.where(place < ours.first, -1, place)
        else:
            count = len(column.numbers.values)
            place = column.first_from[ours.first]
            place = np.where(place >= ours.sure, count, place)
        if len(seen.rows):
            listed = nearest.reduceat(seen.place, seen.starts)
            place[seen.rows] = nearest(place[seen.rows], listed)
        answers = np.full(len(place), np.nan)
        found = (place >= 0) & (place < len(column.numbers.values))
        answers[found] = column.numbers.values[place[found]].astype(np.float64)
        return answers

    def _extreme(self, number: int, window: Window, aggregate: str) -> Floats:
        ours, column = self._range(window), self._join.column(number)
        extremes = column.extremes(aggregate)
        seen = self._looked_at(window, whole=False)
        seen = seen.having(column.numbers.present[seen.place])
        answers = extremes.of(ours.first, ours.sure)
        filled = column.before[ours.sure] > column.before[ours.first]
        if len(seen.rows):
            values = column.numbers.values[seen.place]
            listed = extremes.ufunc.reduceat(values, seen.starts)
            answers[seen.rows] = extremes.ufunc(answers[seen.rows], listed)
            filled[seen.rows] = True
        return np.where(filled, answers, np.nan)

    def _listed(self, asked: Asked, window: Window) -> Floats:
        feature = asked.feature
        answers = np.full(len(self._questions.entity), np.nan)
        if feature.aggregate in COUNTING:
            answers[:] = 0.0
        numbers = self._join.history.columns[asked.column]
        seen = self._looked_at(window, whole=True)
        seen = seen.having(numbers.present[seen.place])
        if len(seen.rows):
            answers[seen.rows] = _of_values(asked, numbers.values[seen.place], seen)
        return answers


def _of_values(asked: Asked, values: NDArray[Any], seen: _Seen) -> Floats:
    """[seen.rows], of what their windows hold in order of (event time, id)."""
    if asked.feature.aggregate == "std":
        return std(values, seen.starts, seen.counts)
    if asked.feature.aggregate == "last_n":
        place = seen.starts + seen.counts - 1 - asked.place
        held = values[np.maximum(place, 0)].astype(np.float64)
        return np.where(asked.place < seen.counts, held, np.nan)
    run = np.arange(len(seen.counts)).repeat(seen.counts)
    ordered = values[np.lexsort((values, run))]
    if asked.feature.aggregate == "quantile":
        share = round((asked.feature.q or 0) * Q_UNITS)
        rank = -(-share * seen.counts // Q_UNITS)
        return ordered[seen.starts + rank - 1].astype(np.float64)
    new = np.diff(ordered, prepend=ordered[:1]) != 0
    new[seen.starts] = True
    return np.add.reduceat(new, seen.starts, dtype=np.int64).astype(np.float64)


class _Line:
    """Pairs of (entity, moment) in order, and how many of them are not after another pair.

    Entities lie one behind the other on one line of int64. Where their times are too long for it,
    a moment is replaced by its rank.
    """

    def __init__(self, entity: Ints, moments_us: Ints) -> None:
        self._base_us = int(moments_us.min(initial=LINE_MAX))
        span_us = int(moments_us.max(initial=0)) - self._base_us
        self._moments: Ints | None = None
        if (int(entity.max(initial=0)) + 2) * (span_us + 3) >= LINE_MAX:
            self._moments = np.unique(moments_us)
            span_us = len(self._moments)
        self._span = max(span_us, 0) + 2
        line = self._line(entity, moments_us)
        self.order = np.argsort(line)
        self._ordered = line[self.order]

    def places(self, entity: Ints, moments_us: Ints) -> Ints:
        return np.searchsorted(self._ordered, self._line(entity, moments_us), "right")

    def _line(self, entity: Ints, moments_us: Ints) -> Ints:
        """A moment before the first is 0, one behind the last the last of the entity's."""
        if self._moments is None:
            within = np.clip(moments_us - self._base_us + 1, 0, self._span - 1)
        else:
            within = np.searchsorted(self._moments, moments_us, "right")
        return entity * self._span + within


class _Extremes:
    """The least or greatest of any range of values, those not `counted` left out.

    Level k holds the extreme of the 2**k values from each place on; two of them cover a range
    (Bender and Farach-Colton, The LCA Problem Revisited, 2000). Levels are made when a range needs
    them.
    """

    def __init__(self, values: NDArray[Any], counted: NDArray[np.bool_], aggregate: str) -> None:
        limits = (np.finfo if values.dtype == np.float64 else np.iinfo)(values.dtype)
        self.ufunc: Any = np.maximum if aggregate == "max" else np.minimum
        self._neutral = limits.min if aggregate == "max" else limits.max
        self._levels = [np.where(counted, values, np.array(self._neutral, dtype=values.dtype))]
        self._lock = threading.Lock()

    def of(self, first: Ints, last: Ints) -> NDArray[Any]:
        """In the type of the values; whatever leaves all others as they are where there is none."""
        answers = np.full(len(first), self._neutral, dtype=self._levels[0].dtype)
        level = np.frexp(np.maximum(last - first, 0).astype(np.float64))[1] - 1
        for number in range(int(level.max(initial=-1)) + 1):
            at = np.flatnonzero(level == number)
            values = self._level(number)
            low, high = values[first[at]], values[last[at] - (1 << number)]
            answers[at] = self.ufunc(low, high)
        return answers

    def _level(self, number: int) -> NDArray[Any]:
        with self._lock:
            while len(self._levels) <= number:
                below, half = self._levels[-1], 1 << (len(self._levels) - 1)
                self._levels.append(self.ufunc(below[:-half], below[half:]))
        return self._levels[number]


def _pieces(lengths: Ints) -> Iterator[slice]:
    """Runs of rows with at most PAIRS_MAX pairs together, or one row."""
    ends, start = np.cumsum(lengths), 0
    while start < len(lengths):
        before = ends[start - 1] if start else 0
        stop = max(int(ends.searchsorted(before + PAIRS_MAX, "right")), start + 1)
        yield slice(start, stop)
        start = stop


def _listed(first: Ints, last: Ints) -> tuple[Ints, Ints]:
    """(row, place) for each place of each row's range."""
    lengths = last - first
    row = np.repeat(np.arange(len(first)), lengths)
    return row, np.arange(len(row)) + (last - np.cumsum(lengths))[row]


def _running(counts: NDArray[Any]) -> Ints:
    return np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))

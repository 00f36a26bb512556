# SPDX-License-Identifier: Apache-2.0
"""The offline windows: a point-in-time join by sorting, exact for late records too.

Observations lie in order of (entity, event time, id), so a window is a range of them. What happened
long enough before a row's moment was known then, but for the late ones: of that part, running
totals, running places and tables of extremes answer at once. The newest part and what was late are
listed and looked at one by one; so is the whole window for what has no such table. No code is
shared with the online read but the final rounding, so that their equality says something.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.feature_view import Q_UNITS
from headrace_feature.domain.edges import Window
from headrace_feature.domain.exact import Totals, std
from headrace_feature.domain.history import History
from headrace_feature.domain.offline_lookups import Candidates
from headrace_feature.domain.plans import Asked
from headrace_feature.domain.records import Numbers
from headrace_feature.domain.sorted_places import Extremes, Ints, Line

PAIRS_MAX = 2_000_000
# Later than this share of all records is late.
PROMPT_SHARE = 0.99
# What is 0 of nothing; all else is absent.
COUNTING = ("count", "distinct")
LISTED = ("std", "last_n", "distinct", "quantile")
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Questions:
    """Rows that are asked for: the entity's number (-1: none) and the moment."""

    entity: Ints
    as_of_us: Ints

    def taken(self, rows: Any) -> Questions:
        return Questions(self.entity[rows], self.as_of_us[rows])


class Join:
    """One view's history; what several features or many rows need is computed once.

    `lookups`: by the place of its column, what each observation may find in another stream.
    """

    def __init__(self, history: History, lookups: Mapping[int, Candidates] | None = None) -> None:
        self.history, self._lookups = history, lookups or {}
        self._events = Line(history.entity, history.event_us)
        settled_us = history.known_us
        for each in self._lookups.values():
            settled_us = each.settled_us(settled_us)
        lag_us = settled_us - history.event_us
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
            self._columns[place] = self._made(place)
        return self._columns[place]

    def _made(self, place: int) -> _Column:
        # No column knows its join: a cycle would keep hundreds of MB until the collector comes.
        if place in self._lookups:
            return _LookedUp(self.prompt, self.count_max, self._lookups[place])
        return _Column(self.prompt, self.count_max, self.history.columns[place])

    def answers(self, questions: Questions, asked: Sequence[Asked]) -> Floats:
        """[rows, asked]; NaN where a window holds no value."""
        order = Line(questions.entity, questions.as_of_us).order
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
    """Running totals, places and extremes of what is prompt in one column of a history.

    `source`: what the values of observations are taken from; here it is the column itself.
    """

    def __init__(self, prompt: Flags, count_max: int, numbers: Numbers) -> None:
        self._numbers, self.source, self._count_max = numbers, numbers, count_max
        self._counted = numbers.present & prompt
        self._extremes: dict[str, Extremes] = {}

    def valued(self, seen: _Seen, questions: Questions) -> tuple[_Seen, Ints]:
        """Those of the seen that have a value at the row's moment, and its place in `source`."""
        seen = seen.having(self._numbers.present[seen.place])
        return seen, seen.place

    def at(self, place: Ints) -> Floats:
        """The values at these places; NaN for a place before the first or behind the last."""
        answers = np.full(len(place), np.nan)
        inside = (place >= 0) & (place < len(self._counted))
        answers[inside] = self._numbers.values[place[inside]].astype(np.float64)
        return answers

    @cached_property
    def before(self) -> Ints:
        """How many values there are before each place."""
        return _running(self._counted)

    @cached_property
    def totals(self) -> Totals:
        zero = np.zeros(1, dtype=self.source.values.dtype)
        values = np.where(self.source.present, self.source.values, zero)
        return Totals(values, count_max=self._count_max)

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

    def extremes(self, aggregate: str) -> Extremes:
        if aggregate not in self._extremes:
            made = Extremes(self._numbers.values, self._counted, aggregate)
            self._extremes[aggregate] = made
        return self._extremes[aggregate]


class _LookedUp(_Column):
    """A column of another stream: its tables hold what observations find when all is known."""

    def __init__(self, prompt: Flags, count_max: int, candidates: Candidates) -> None:
        super().__init__(prompt, count_max, candidates.final_numbers)
        self._candidates, self.source = candidates, candidates.numbers

    @cached_property
    def running(self) -> Ints:
        return self.totals.running(self._counted, self._candidates.final)

    def valued(self, seen: _Seen, questions: Questions) -> tuple[_Seen, Ints]:
        as_of_us = questions.as_of_us[seen.rows.repeat(seen.counts)]
        source = self._candidates.found(seen.place, as_of_us)
        return seen.having(source >= 0), source[source >= 0]


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

    def _valued(self, column: _Column, window: Window, *, whole: bool) -> tuple[_Seen, Ints]:
        return column.valued(self._looked_at(window, whole=whole), self._questions)

    def _total(self, number: int, window: Window) -> tuple[Ints, Floats]:
        """How many values the window holds, and their sum."""
        if (number, window) not in self._totals:
            ours, column = self._range(window), self._join.column(number)
            seen, source = self._valued(column, window, whole=False)
            counts = column.before[ours.sure] - column.before[ours.first]
            counts[seen.rows] += seen.counts
            totals = column.running[ours.sure] - column.running[ours.first]
            if len(seen.rows):
                totals[seen.rows] += np.add.reduceat(column.totals.of(source), seen.starts)
            sums = np.where(counts > 0, column.totals.as_float64(totals), np.nan)
            self._totals[number, window] = counts, sums
        return self._totals[number, window]

    def _edge(self, number: int, window: Window, aggregate: str) -> Floats:
        """The value at the first or last place of the window that has one."""
        ours, column = self._range(window), self._join.column(number)
        seen, source = self._valued(column, window, whole=False)
        if aggregate == "last":
            place, looked_at = column.last_before[ours.sure], seen.starts + seen.counts - 1
            place = np.where(place < ours.first, -1, place)
            nearer = seen.place[looked_at] > place[seen.rows]
        else:
            place, looked_at = column.first_from[ours.first], seen.starts
            place = np.where(place >= ours.sure, len(column.first_from), place)
            nearer = seen.place[looked_at] < place[seen.rows]
        answers = column.at(place)
        found = column.source.values[source[looked_at[nearer]]]
        answers[seen.rows[nearer]] = found.astype(np.float64)
        return answers

    def _extreme(self, number: int, window: Window, aggregate: str) -> Floats:
        ours, column = self._range(window), self._join.column(number)
        extremes = column.extremes(aggregate)
        seen, source = self._valued(column, window, whole=False)
        answers = extremes.of(ours.first, ours.sure)
        filled = column.before[ours.sure] > column.before[ours.first]
        if len(seen.rows):
            listed = extremes.ufunc.reduceat(column.source.values[source], seen.starts)
            answers[seen.rows] = extremes.ufunc(answers[seen.rows], listed)
            filled[seen.rows] = True
        return np.where(filled, answers, np.nan)

    def _listed(self, asked: Asked, window: Window) -> Floats:
        answers = np.full(len(self._questions.entity), np.nan)
        if asked.feature.aggregate in COUNTING:
            answers[:] = 0.0
        column = self._join.column(asked.column)
        seen, source = self._valued(column, window, whole=True)
        if len(seen.rows):
            answers[seen.rows] = _of_values(asked, column.source.values[source], seen)
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
    # Not by their difference, which may be beyond the largest number.
    new = np.concatenate(([True], ordered[1:] != ordered[:-1]))
    new[seen.starts] = True
    return np.add.reduceat(new, seen.starts, dtype=np.int64).astype(np.float64)


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

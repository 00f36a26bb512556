# SPDX-License-Identifier: Apache-2.0
"""The training set's windows: a point-in-time join by sorting, exact for late records too.

An observation is seen by rows with as_of in [shown, gone): shown = max(event time, known time),
gone = event time + window. So a count or sum is the running total of what was shown by as_of minus
that of what was gone, whatever the lags; `last` is the highest (event time, id) shown so far,
unless it is gone. The others list a window's observations. No code is shared with the online
read but the final rounding, so that their equality says something.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.feature_view import Q_UNITS
from headrace_feature.domain.edges import Window
from headrace_feature.domain.exact import RunningTotals, rounded
from headrace_feature.domain.records import Numbers
from headrace_feature.domain.views import Asked

PAIRS_MAX = 2_000_000
# What is 0 of nothing; all else is absent.
COUNTING = ("count", "distinct")


@dataclass(frozen=True, slots=True)
class History:
    """Observations by (entity, event time, id), each once.

    `entity`: a number; `event_us`, `known_us`: [observations].
    """

    entity: NDArray[np.int64]
    event_us: NDArray[np.int64]
    known_us: NDArray[np.int64]
    numbers: dict[str, Numbers]


@dataclass(frozen=True, slots=True)
class Questions:
    """Rows of a training set: the entity's number (-1: none) and the moment asked for."""

    entity: NDArray[np.int64]
    as_of_us: NDArray[np.int64]


def build_history(
    entity: NDArray[np.int64],
    event_us: NDArray[np.int64],
    known_us: NDArray[np.int64],
    id_rank: NDArray[np.int64],
    numbers: dict[str, Numbers],
) -> History:
    """Drops observations without entity (-1) and repeats of an id: the first known stays.

    `id_rank`: order of the ids as bytes, equal for equal ids.
    """
    order = np.lexsort((known_us, id_rank, event_us, entity))
    order = order[entity[order] >= 0]
    if np.bincount(id_rank).max(initial=0) > 1:
        order = order[_first_known(entity, event_us, known_us, id_rank, order)]
    return History(
        entity=entity[order],
        event_us=event_us[order],
        known_us=known_us[order],
        numbers={
            column: Numbers(values.values[order], values.present[order])
            for column, values in numbers.items()
        },
    )


def _first_known(
    entity: NDArray[np.int64],
    event_us: NDArray[np.int64],
    known_us: NDArray[np.int64],
    id_rank: NDArray[np.int64],
    order: NDArray[np.intp],
) -> NDArray[np.bool_]:
    """[order]: whether the observation is the first known of its id, entity and event time."""
    name = np.stack([entity, event_us, id_rank])[:, order]
    by_name = np.lexsort((known_us[order], *name))
    name = name[:, by_name]
    kept = np.empty(len(order), dtype=np.bool_)
    kept[by_name] = np.concatenate(([True], (name[:, 1:] != name[:, :-1]).any(axis=0)))[
        : len(order)
    ]
    return kept


def window_features(
    history: History, questions: Questions, asked: Sequence[Asked]
) -> NDArray[np.float64]:
    """[rows, asked]; NaN where a window holds no value."""
    answers = np.empty((len(questions.entity), len(asked)))
    if not len(history.entity):
        answers[:] = [0.0 if each.feature.aggregate in COUNTING else np.nan for each in asked]
        return answers
    join = _Join(history, questions)
    for column, each in enumerate(asked):
        answers[:, column] = join.answer(each)
    return answers


class _Join:
    """One view's history against the rows; what several features need is computed once."""

    def __init__(self, history: History, questions: Questions) -> None:
        self._history, self._questions = history, questions
        self._shown_us = np.maximum(history.event_us, history.known_us)
        self._by_shown = np.lexsort((self._shown_us, history.entity))
        self._shown = self._placed(self._shown_us[self._by_shown], self._by_shown)
        self._gone_by_window: dict[int, tuple[NDArray[np.intp], NDArray[np.int64]]] = {}

    def answer(self, asked: Asked) -> NDArray[np.float64]:
        feature = asked.feature
        window_us = feature.window_s * 1_000_000
        if feature.tumbling:
            return self._listed(asked)
        match feature.aggregate:
            case "count":
                return (self._shown - self._gone(window_us)[1]).astype(np.float64)
            case "last":
                return self._last(feature.column or "", window_us)
            case "sum" | "mean":
                return self._total(feature.column or "", window_us, feature.aggregate)
            case _:
                return self._listed(asked)

    def _gone(self, window_us: int) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """Observations in the order in which they go, and how many are gone at each row.

        One that is known only after it left the window comes and goes at the same moment.
        """
        if window_us not in self._gone_by_window:
            gone_us = np.maximum(self._history.event_us + window_us, self._shown_us)
            order = np.lexsort((gone_us, self._history.entity))
            self._gone_by_window[window_us] = order, self._placed(gone_us[order], order)
        return self._gone_by_window[window_us]

    def _placed(self, moments_us: NDArray[np.int64], order: NDArray[np.intp]) -> NDArray[np.int64]:
        """Per row, how many observations of lower entities, or its own up to as_of, there are."""
        entity = self._history.entity[order]
        return _places(entity, moments_us, self._questions.entity, self._questions.as_of_us)

    def _total(self, column: str, window_us: int, aggregate: str) -> NDArray[np.float64]:
        numbers = self._history.numbers[column]
        order, gone = self._gone(window_us)
        one = numbers.present.astype(np.int64)
        counts = _running(one[self._by_shown])[self._shown] - _running(one[order])[gone]
        zero = np.zeros(1, dtype=numbers.values.dtype)
        totals = RunningTotals(np.where(numbers.present, numbers.values, zero))
        total = totals.in_order(self._by_shown)[self._shown] - totals.in_order(order)[gone]
        answers = totals.as_float64(total)
        answers[counts == 0] = np.nan
        return answers / np.maximum(counts, 1) if aggregate == "mean" else answers

    def _last(self, column: str, window_us: int) -> NDArray[np.float64]:
        """History is in order of (entity, event time, id): the highest place shown is the last."""
        history, numbers = self._history, self._history.numbers[column]
        place = np.where(numbers.present[self._by_shown], self._by_shown, -1)
        highest = np.concatenate(([-1], np.maximum.accumulate(place)))[self._shown]
        found = (highest >= 0) & (history.entity[highest] == self._questions.entity)
        found &= history.event_us[highest] > self._questions.as_of_us - window_us
        answers = np.full(len(found), np.nan)
        answers[found] = numbers.values[highest[found]].astype(np.float64)
        return answers

    def _listed(self, asked: Asked) -> NDArray[np.float64]:
        """By listing what each row's window holds."""
        history, questions, feature = self._history, self._questions, asked.feature
        since_us, until_us = Window.of(feature).edges(questions.as_of_us)
        first, last = (
            _places(history.entity, history.event_us, questions.entity, edge_us)
            for edge_us in (since_us, until_us)
        )
        empty = 0.0 if feature.aggregate in COUNTING else np.nan
        answers = np.full(len(first), empty)
        numbers = history.numbers[feature.column] if feature.column else None
        for rows in _pieces(last - first):
            row, place = _listed(first[rows], last[rows])
            seen = history.known_us[place] <= questions.as_of_us[rows][row]
            if numbers is not None:
                seen &= numbers.present[place]
            row, place = row[seen], place[seen]
            filled, starts = np.unique(row, return_index=True)
            values = numbers.values[place] if numbers is not None else place
            for one, held in zip(filled.tolist(), np.split(values, starts)[1:], strict=True):
                answers[rows.start + one] = _of_values(held.tolist(), asked)
        return answers


def _of_values(values: list[Any], asked: Asked) -> float:
    """An aggregate of what one window holds, in order of (event time, id); at least one value."""
    match asked.feature.aggregate:
        case "count":
            return float(len(values))
        case "sum" | "mean" as name:
            total = sum(map(Fraction, values), Fraction())
            added = rounded(total.numerator, total.denominator)
            return added / len(values) if name == "mean" else added
        case "std":
            return _std(values)
        case "min" | "quantile" as name:
            share = Fraction(round((asked.feature.q or 0) * Q_UNITS), Q_UNITS)
            rank = max(math.ceil(share * len(values)), 1) if name == "quantile" else 1
            return float(sorted(values)[rank - 1])
        case "max":
            return float(max(values))
        case "first":
            return float(values[0])
        case "distinct":
            return float(len(set(values)))
        case _:
            return float(values[-1 - asked.place]) if asked.place < len(values) else math.nan


def _std(values: list[Any]) -> float:
    if len(values) < 2:
        return math.nan
    exact = [Fraction(value) for value in values]
    spread = len(exact) * sum(value * value for value in exact) - sum(exact) ** 2
    pairs = len(exact) * (len(exact) - 1)
    return math.sqrt(rounded(spread.numerator, spread.denominator) / pairs)


def _pieces(lengths: NDArray[np.int64]) -> Iterator[slice]:
    """Rows in runs of about PAIRS_MAX pairs; one row is never cut."""
    run = np.cumsum(lengths) // PAIRS_MAX
    bounds = [0, *(np.flatnonzero(np.diff(run)) + 1).tolist(), len(lengths)]
    for start, stop in pairwise(bounds):
        yield slice(start, stop)


def _listed(
    first: NDArray[np.int64], last: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(row, place) for each place of each row's range."""
    lengths = last - first
    row = np.repeat(np.arange(len(first)), lengths)
    return row, np.arange(len(row)) + (last - np.cumsum(lengths))[row]


def _running(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate(([0], np.cumsum(counts)))


def _places(
    entity: NDArray[np.int64],
    moments_us: NDArray[np.int64],
    asked_entity: NDArray[np.int64],
    asked_us: NDArray[np.int64],
) -> NDArray[np.int64]:
    """How many (entity, moment) pairs are not after each asked pair; the pairs are in order."""
    rows = len(asked_entity)
    asked = np.arange(len(entity) + rows) >= len(entity)
    order = np.lexsort(
        (asked, np.concatenate((moments_us, asked_us)), np.concatenate((entity, asked_entity)))
    )
    before = np.cumsum(~asked[order])
    places = np.empty(rows, dtype=np.int64)
    at = asked[order]
    places[order[at] - len(entity)] = before[at]
    return places

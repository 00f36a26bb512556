# SPDX-License-Identifier: Apache-2.0
"""A question for feature rows. Questions that ask alike are joined, answered once, and split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from headrace.errors import Busy, Invalid
from headrace_feature.domain.completeness import check_not_to_come
from headrace_feature.domain.request_features import Column
from headrace_kit.clock import CLOCK_SKEW_US

ROWS_MAX = 10_000
FEATURES_MAX = 4_096
VALUE_BYTES, TIME_BYTES = 4, 8  # float32 and int64
# How far inference's clock may be ahead. A window of an hour would hold less than half of what
# happened in the last hour if it were further: no answer is better.
PREDICTING_SKEW_US = 30 * 60 * 1_000_000
JOINED_ROWS_MAX = 1_000
ID_BYTES_MAX = 128  # in UTF-8
Likeness = tuple[tuple[str, ...], tuple[tuple[str, str], ...], bool, bool, int]


@dataclass(frozen=True, slots=True)
class GetOnlineFeatures:
    """`columns`: entity keys and request columns, one entry per row; `as_of_us` empty means now.

    `staleness_max_ms`: how far behind the answer may be at most, 0 for any. `prediction_ids`: one
    for each row, or none: what is made of the answer.
    """

    features: tuple[str, ...]
    columns: Mapping[str, Column]
    as_of_us: NDArray[np.int64]
    include_times: bool = False
    staleness_max_ms: int = 0
    prediction_ids: tuple[str, ...] = ()

    def named(self, now_us: int) -> GetOnlineFeatures:
        """The same with its moments: now, where none is given."""
        if len(self.as_of_us):
            return self
        rows = max(map(len, self.columns.values()), default=0)
        return replace(self, as_of_us=np.full(rows, now_us, dtype=np.int64))

    @property
    def rows(self) -> int:
        """Raises Invalid BAD_REQUEST where the lengths differ, Busy BATCH_TOO_LARGE."""
        lengths = set(map(len, self.columns.values()))
        if len(lengths) != 1 or lengths == {0}:
            raise Invalid("BAD_REQUEST", field="columns", problem="must have one length, 1 or more")
        (rows,) = lengths
        if rows > ROWS_MAX:
            raise Busy("BATCH_TOO_LARGE", rows=rows, rows_max=ROWS_MAX)
        moments = len(self.as_of_us)
        if moments not in (0, rows):
            raise Invalid("BAD_REQUEST", field="as_of_us", problem="one for each row, or none")
        if moments and self.as_of_us.min() < 0:
            problem = "must not be negative: microseconds since 1970"
            raise Invalid("BAD_REQUEST", field="as_of_us", problem=problem)
        if self.staleness_max_ms < 0:
            raise Invalid("BAD_REQUEST", field="staleness_max_ms", problem="must not be negative")
        self._check_ids(rows)
        return rows

    def check_size(self, answer_bytes_max: int) -> None:
        """Before anything is read. Raises Invalid BAD_REQUEST for too many features, and Busy
        MESSAGE_TOO_LARGE for an answer that no message would hold.
        """
        check_features(self.features)
        rows = min(max(map(len, self.columns.values()), default=0), ROWS_MAX)
        value_bytes = VALUE_BYTES + (TIME_BYTES if self.include_times else 0)
        answer_bytes = rows * len(self.features) * value_bytes
        if answer_bytes > answer_bytes_max:
            raise Busy("MESSAGE_TOO_LARGE", bytes=answer_bytes, bytes_max=answer_bytes_max)

    def check_moments(self, now_us: int) -> None:
        """Raises Invalid BAD_REQUEST where one is to come.

        Who names predictions has refused such moments by its own clock, and logs what it asks for:
        its now is taken as it is, so that a prediction can be made again from its log.
        """
        if len(self.as_of_us):
            skew_us = PREDICTING_SKEW_US if self.prediction_ids else CLOCK_SKEW_US
            check_not_to_come("as_of_us", int(self.as_of_us.max()), now_us, skew_us=skew_us)

    def _check_ids(self, rows: int) -> None:
        if len(self.prediction_ids) not in (0, rows):
            raise Invalid(
                "BAD_REQUEST", field="prediction_ids", problem="one for each row, or none"
            )
        if any(not 0 < len(each.encode()) <= ID_BYTES_MAX for each in self.prediction_ids):
            problem = f"has 1 to {ID_BYTES_MAX} bytes"
            raise Invalid("BAD_REQUEST", field="prediction_ids", problem=problem)

    @property
    def likeness(self) -> Likeness:
        """Equal for questions that can be joined."""
        kinds = ((name, _kind(column)) for name, column in self.columns.items())
        given = bool(len(self.as_of_us))
        return self.features, tuple(kinds), given, self.include_times, self.staleness_max_ms


@dataclass(frozen=True, slots=True, eq=False)
class FeatureRows:
    """`values`: [rows, features], NaN absent. `event_us`, if asked for: when the newest observation
    happened that each rests on, -1 for none. `known_until_us`: see KnownUntil.
    """

    values: NDArray[np.float32]
    event_us: NDArray[np.int64] | None
    known_until_us: int

    def in_order(self, places: Sequence[int]) -> FeatureRows:
        """The features of these places, in this order."""
        times = None if self.event_us is None else self.event_us[:, places]
        return FeatureRows(self.values[:, places], times, self.known_until_us)

    def split(self, rows: Sequence[int]) -> list[FeatureRows]:
        """So many rows for each."""
        if len(rows) == 1:
            return [self]
        cuts = [0, *accumulate(rows)]
        return [self._between(*cut) for cut in pairwise(cuts)]

    def _between(self, first: int, last: int) -> FeatureRows:
        times = None if self.event_us is None else self.event_us[first:last]
        return FeatureRows(self.values[first:last], times, self.known_until_us)


def check_features(features: Sequence[str]) -> None:
    """Raises Invalid BAD_REQUEST for more than one request may name."""
    if len(features) > FEATURES_MAX:
        problem = f"{len(features)} are named, at most {FEATURES_MAX} at a time"
        raise Invalid("BAD_REQUEST", field="features", problem=problem)


def joinable(
    queries: Mapping[int, GetOnlineFeatures], rows: Mapping[int, int]
) -> Iterator[list[int]]:
    """The numbers of queries that are alike, as many together as JOINED_ROWS_MAX lets."""
    groups, rows_of = dict[Likeness, list[int]](), dict[Likeness, int]()
    for number, query in queries.items():
        alike = query.likeness
        if (together := rows_of.get(alike, 0) + rows[number]) > JOINED_ROWS_MAX and alike in groups:
            yield groups.pop(alike)
            together = rows[number]
        groups.setdefault(alike, []).append(number)
        rows_of[alike] = together
    yield from groups.values()


def joined(queries: Sequence[GetOnlineFeatures]) -> GetOnlineFeatures:
    """One question with the rows of all, in their order."""
    first = queries[0]
    if len(queries) == 1:
        return first
    return GetOnlineFeatures(
        first.features,
        {name: _end_to_end([query.columns[name] for query in queries]) for name in first.columns},
        np.concatenate([query.as_of_us for query in queries]),
        first.include_times,
        first.staleness_max_ms,
    )


def _end_to_end(columns: Sequence[Column]) -> Column:
    if isinstance(columns[0], np.ndarray):
        return np.concatenate([np.asarray(column) for column in columns])
    return [value for column in columns for value in column]


def _kind(column: Column) -> str:
    return column.dtype.name if isinstance(column, np.ndarray) else "text"

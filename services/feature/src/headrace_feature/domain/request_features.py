# SPDX-License-Identifier: Apache-2.0
"""Features of the request itself, by one function for the online read and the training set."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from headrace.errors import Invalid
from headrace.feature_view import RequestFeature
from headrace_feature.domain.entities import text_of

# Texts, or numbers of which NaN is absent.
Column = Sequence[str | None] | NDArray[np.int64] | NDArray[np.float64]

SECOND_US = 1_000_000
HOUR_S, DAY_S = 3_600, 86_400
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_WEEKDAY = 4  # 1970 began on a Thursday; Monday is 1.
# What a clock can show: the years 2 to 9998, so that no zone leaves the calendar.
FIRST_US = (datetime(2, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
LAST_US = (datetime(9998, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)


def transform(feature: RequestFeature, values: Column) -> NDArray[np.float64]:
    """[rows]; Invalid BAD_REQUEST when a number is needed and the column holds texts."""
    if feature.transform == "category":
        return _category(feature, values)
    if not isinstance(values, np.ndarray):
        raise Invalid("BAD_REQUEST", field=feature.column, problem="must hold numbers")
    if feature.transform == "value":
        return values.astype(np.float64)
    if feature.transform == "bucketize":
        return _bucketize(feature, values.astype(np.float64))
    return _local(feature, values)


def _category(feature: RequestFeature, values: Column) -> NDArray[np.float64]:
    number = {name: 1 + place for place, name in enumerate(feature.categories or ())}
    listed = values.tolist() if isinstance(values, np.ndarray) else values
    return np.array([number.get(text_of(value) or "", 0) for value in listed], dtype=np.float64)


def _bucketize(feature: RequestFeature, values: NDArray[np.float64]) -> NDArray[np.float64]:
    place = np.searchsorted(np.array(feature.boundaries), values, "right")
    return np.where(np.isnan(values), np.nan, place)


def _local(
    feature: RequestFeature, moments_us: NDArray[np.int64] | NDArray[np.float64]
) -> NDArray[np.float64]:
    """hour 0 to 23, weekday 1 to 7 by the zone's clock; each second is looked up once."""
    answers = np.full(len(moments_us), np.nan)
    given = (moments_us >= FIRST_US) & (moments_us < LAST_US)
    seconds, place = np.unique(moments_us[given].astype(np.int64) // SECOND_US, return_inverse=True)
    local = (seconds + _offsets_s(seconds, ZoneInfo(feature.timezone or "UTC")))[place]
    if feature.transform == "hour":
        answers[given] = local % DAY_S // HOUR_S
    else:
        answers[given] = (local // DAY_S + EPOCH_WEEKDAY - 1) % 7 + 1
    return answers


def _offsets_s(seconds: NDArray[np.int64], zone: ZoneInfo) -> NDArray[np.int64]:
    moments = (EPOCH + timedelta(seconds=second) for second in seconds.tolist())
    offsets = (moment.astimezone(zone).utcoffset() for moment in moments)
    return np.array([offset.total_seconds() for offset in offsets if offset], dtype=np.int64)

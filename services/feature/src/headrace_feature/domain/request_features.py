# SPDX-License-Identifier: Apache-2.0
"""Features of the request itself, by one function for the online read and the training set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headrace.entity import text_of
from headrace.errors import Invalid
from headrace.feature_view import RequestFeature
from headrace_feature.domain.local_time import DAY_S, FIRST_US, HOUR_S, LAST_US, local_seconds

# Texts, or numbers of which NaN is absent.
Column = Sequence[str | None] | NDArray[np.int64] | NDArray[np.float64]

EPOCH_WEEKDAY = 4  # 1970 began on a Thursday; Monday is 1.


def spelled(column: Column) -> list[str | None]:
    """Of each row how its value is spelled as an entity, or None."""
    listed = column.tolist() if isinstance(column, np.ndarray) else column
    return list(map(text_of, listed))


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
    return np.array([number.get(text or "", 0) for text in spelled(values)], dtype=np.float64)


def _bucketize(feature: RequestFeature, values: NDArray[np.float64]) -> NDArray[np.float64]:
    place = np.searchsorted(np.array(feature.boundaries), values, "right")
    return np.where(np.isnan(values), np.nan, place)


def _local(
    feature: RequestFeature, moments_us: NDArray[np.int64] | NDArray[np.float64]
) -> NDArray[np.float64]:
    """hour 0 to 23, weekday 1 to 7 by the zone's clock."""
    answers = np.full(len(moments_us), np.nan)
    given = (moments_us >= FIRST_US) & (moments_us < LAST_US)
    local = local_seconds(moments_us[given].astype(np.int64), feature.timezone or "UTC")
    if feature.transform == "hour":
        answers[given] = local % DAY_S // HOUR_S
    else:
        answers[given] = (local // DAY_S + EPOCH_WEEKDAY - 1) % 7 + 1
    return answers

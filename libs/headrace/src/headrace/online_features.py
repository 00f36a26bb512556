# SPDX-License-Identifier: Apache-2.0
"""Online features: a row of values for each entity, with how old they are.

Plain Python values both ways: who reads features of a few entities needs no library for arrays.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from headrace.entity import text_of
from headrace.errors import Invalid, NotFound
from headrace.feature.v1 import feature_service_pb2 as wire
from headrace.feature_view import StreamView, View, feature_names
from headrace.rpc import call

TIMEOUT_S = 1.0  # the deadline of the call


@dataclass(frozen=True, slots=True)
class FeatureValue:
    """`value`: float32 as it was answered, None where absent.

    `event_time_us`: when the newest observation happened that was looked at for it, microseconds
    since the epoch; None where there was none, and of what the request itself says.
    """

    value: float | None
    event_time_us: int | None


@dataclass(frozen=True, slots=True)
class OnlineFeatures:
    """`rows`: in the order asked, each by full feature name.

    `known_until_us`: up to this moment all that was published is in the answer; None when that is
    not known, or no stream was asked for.
    """

    rows: list[dict[str, FeatureValue]]
    known_until_us: int | None


def read_online(
    stub: Any,
    features: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    *,
    as_of_us: int | None,
    staleness_max_ms: int,
) -> OnlineFeatures:
    """Raises what `Client.get_online_features` says."""
    request = wire.GetOnlineFeaturesRequest(
        features=features,
        columns=[_column(name, rows) for name in (rows[0] if rows else ())],
        as_of_us=[] if as_of_us is None else [as_of_us] * len(rows),
        include_times=True,
        staleness_max_ms=staleness_max_ms,
    )
    answer = call(stub.GetOnlineFeatures, request, timeout_s=TIMEOUT_S, retries_max=3)
    return OnlineFeatures(list(_rows(features, answer)), answer.known_until_us or None)


def named_features(names: Sequence[str], views: Mapping[str, View]) -> list[str]:
    """Full names as they are; of a view's name all that it answers.

    Raises NotFound VIEW_UNKNOWN.
    """
    return [each for name in names for each in _features(name, views)]


def entity_view(views: Mapping[str, View], name: str) -> StreamView:
    """Raises NotFound VIEW_UNKNOWN unless it is applied and has an entity."""
    view = views.get(name)
    if not isinstance(view, StreamView):
        raise NotFound("VIEW_UNKNOWN", view=name)
    return view


def _features(name: str, views: Mapping[str, View]) -> list[str]:
    if ":" in name:
        return [name]
    if name not in views:
        raise NotFound("VIEW_UNKNOWN", view=name)
    return feature_names(views[name])


def _rows(
    features: Sequence[str], answer: wire.GetOnlineFeaturesResponse
) -> Iterator[dict[str, FeatureValue]]:
    values = struct.iter_unpack(f"<{len(features)}f", answer.values)
    times_us = struct.iter_unpack(f"<{len(features)}q", answer.event_times_us)
    for of_row in zip(values, times_us, strict=True):
        told = (
            FeatureValue(None if math.isnan(value) else value, None if time_us < 0 else time_us)
            for value, time_us in zip(*of_row, strict=True)
        )
        yield dict(zip(features, told, strict=True))


def _column(name: str, rows: Sequence[Mapping[str, Any]]) -> wire.Column:
    """All values of a column are of one kind: texts, whole numbers, or numbers."""
    values = [_given(number, row, name) for number, row in enumerate(rows, start=1)]
    try:
        if all(value is None or isinstance(value, str | bool) for value in values):
            texts = wire.StringValues(values=[text_of(value) or "" for value in values])
            return wire.Column(name=name, strings=texts)
        if all(isinstance(value, Integral) for value in values):
            return wire.Column(name=name, int64s=wire.Int64Values(values=map(int, values)))
        if all(isinstance(value, Real) for value in values):
            return wire.Column(name=name, doubles=wire.DoubleValues(values=map(float, values)))
    except (ValueError, OverflowError) as err:
        problem = "holds a value that is no text of UTF-8, or beyond 64 bits"
        raise Invalid("BAD_REQUEST", column=name, problem=problem) from err
    raise Invalid("BAD_REQUEST", column=name, problem="neither texts nor numbers in all rows")


def _given(number: int, row: Mapping[str, Any], name: str) -> Any:
    try:
        return row[name]
    except KeyError as err:
        raise Invalid("BAD_REQUEST", row=number, missing=name) from err

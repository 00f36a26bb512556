# SPDX-License-Identifier: Apache-2.0
"""Bytes of the wire to what the handlers know: records, queries, definitions, answers."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from headrace.errors import Invalid
from headrace.feature.v1 import feature_service_pb2 as wire
from headrace_feature.domain.entities import text_of
from headrace_feature.domain.request_features import Column
from headrace_feature.domain.tiles import Numbers, Observations
from headrace_feature.domain.training_set import TrainingSet
from headrace_feature.domain.views import Kind, Layout
from headrace_feature.handlers import CreateTrainingSet, GetOnlineFeatures
from headrace_kit.kafka import Record

TYPE_CODES: Mapping[Kind, str] = {"int64": "q", "float64": "d"}
ID, EVENT_TIME, KNOWN_TIME = "ce_id", "ce_time", "headrace-known-time"
PUBLISHED = "headrace-published-ms"
MOMENT_MAX = 2**62  # a window or a lag may be added without leaving int64


def to_observations(records: Sequence[Record], layouts: Sequence[Layout]) -> Observations:
    """The columns that the layouts need.

    Raises Invalid EMPTY, DECODE_ERROR, MISSING_FIELD, BAD_TYPE, BAD_ID or BAD_TIMESTAMP when one
    record is not as ingest publishes them.
    """
    values = [_decoded(record.value) for record in records]
    return Observations(
        ids=[_id(record) for record in records],
        event_us=[_moment(record, EVENT_TIME) for record in records],
        known_us=[_moment(record, KNOWN_TIME) for record in records],
        partitions=[record.partition for record in records],
        offsets=[record.offset for record in records],
        texts={
            column: [text_of(value.get(column)) for value in values]
            for column in {column for layout in layouts for column in layout.entity}
        },
        numbers={
            column: _numbers(column, kind, [value.get(column) for value in values])
            for column, kind in _kinds(layouts).items()
        },
    )


def published_ms(record: Record) -> int | None:
    """When the user published it; None when ingest did not say."""
    return _moment(record, PUBLISHED) if PUBLISHED in record.headers else None


def _decoded(value: bytes | None) -> dict[str, Any]:
    if not value:
        raise Invalid("EMPTY")
    try:
        decoded = orjson.loads(value)
    except ValueError as err:
        raise Invalid("DECODE_ERROR") from err
    if not isinstance(decoded, dict):
        raise Invalid("BAD_TYPE", found=type(decoded).__name__)
    return decoded


def _header(record: Record, name: str) -> bytes:
    value = record.headers.get(name)
    if value is None:
        raise Invalid("MISSING_FIELD", header=name)
    return value


def _id(record: Record) -> str:
    try:
        name = _header(record, ID).decode()
    except UnicodeDecodeError as err:
        raise Invalid("BAD_ID") from err
    if not name or "\n" in name:
        raise Invalid("BAD_ID", id=name[:128])
    return name


def _moment(record: Record, header: str) -> int:
    try:
        moment = int(_header(record, header))
    except ValueError as err:
        raise Invalid("BAD_TIMESTAMP", header=header) from err
    if not 0 <= moment < MOMENT_MAX:
        raise Invalid("BAD_TIMESTAMP", header=header, value=moment)
    return moment


def _kinds(layouts: Iterable[Layout]) -> dict[str, Kind]:
    return {
        column: kind
        for layout in layouts
        for column, kind in zip(layout.columns, layout.kinds, strict=True)
    }


def _numbers(column: str, kind: Kind, values: Sequence[Any]) -> Numbers:
    present = np.array([value is not None for value in values], dtype=np.bool_)
    filled = values if present.all() else [0 if value is None else value for value in values]
    try:
        # An array takes no text, no fraction for an integer and nothing beyond int64.
        dense = array(TYPE_CODES[kind], filled)
    except (TypeError, OverflowError) as err:
        raise Invalid("BAD_TYPE", column=column) from err
    return Numbers(np.array(dense, dtype=kind), present)


def to_query(request: wire.GetOnlineFeaturesRequest) -> GetOnlineFeatures:
    columns = {column.name: _to_column(column) for column in request.columns}
    if len(columns) != len(request.columns):
        raise Invalid("BAD_REQUEST", field="columns", problem="a column is given twice")
    return GetOnlineFeatures(
        features=tuple(request.features),
        columns=columns,
        as_of_us=np.array(request.as_of_us, dtype=np.int64),
    )


def _to_column(column: wire.Column) -> Column:
    kind = column.WhichOneof("values")
    if kind == "strings":
        return list(column.strings.values)
    if kind == "int64s":
        return np.array(column.int64s.values, dtype=np.int64)
    return np.array(column.doubles.values, dtype=np.float64)


def to_online_response(answers: NDArray[np.float32]) -> wire.GetOnlineFeaturesResponse:
    return wire.GetOnlineFeaturesResponse(
        rows=len(answers), values=answers.astype("<f4", copy=False).tobytes()
    )


def to_training_command(request: wire.CreateTrainingSetRequest) -> CreateTrainingSet:
    if request.known_until_us <= 0:
        raise Invalid("BAD_REQUEST", field="known_until_us", problem="must be given")
    return CreateTrainingSet(request.recipe, request.known_until_us)


def to_manifest(training_set: TrainingSet, digest: str) -> wire.TrainingSetManifest:
    return wire.TrainingSetManifest(
        features=training_set.features,
        rows=len(training_set.label),
        known_until_us=training_set.known_until_us,
        delta_version_by_stream=training_set.version_by_stream,
        digest=digest,
    )

# SPDX-License-Identifier: Apache-2.0
"""Bytes of the wire to what the handlers know: records, queries, definitions, answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headrace.application import Stream
from headrace.entity import entity_name, text_of
from headrace.errors import Invalid
from headrace.expression import Expression
from headrace.feature.v1 import feature_events_pb2 as events
from headrace.feature.v1 import feature_service_pb2 as wire
from headrace_feature.domain.corrections import Correction
from headrace_feature.domain.gathering import Wanted
from headrace_feature.domain.log_place import LogPlace
from headrace_feature.domain.observations import Ids, Ints, NamedTexts, Observations
from headrace_feature.domain.online_query import FeatureRows, GetOnlineFeatures
from headrace_feature.domain.records import Numbers
from headrace_feature.domain.request_features import Column
from headrace_feature.domain.training_set import Historical, SpineTally
from headrace_feature.domain.views import LAYOUT_ID_BYTES, Kind, Layout
from headrace_feature.handlers import GetObservations, HeldObservations
from headrace_feature.materialize_handlers import Materialized, MaterializeView
from headrace_feature.offline_handlers import CreateTrainingSet, GetHistoricalFeatures
from headrace_feature.skew_handlers import Skew
from headrace_feature.view_handlers import ViewState
from headrace_kit.erased_entities import ErasedEntities
from headrace_kit.expressions import to_polars
from headrace_kit.frames import FEW_ROWS_MAX, computed
from headrace_kit.kafka import RecordBatch

# What ingest says about a record stands in its value, beside the columns of the contract.
ID, EVENT_TIME, KNOWN_TIME, PUBLISHED = "_id", "_event_us", "_known_us", "_published_ms"
ENVELOPE: Mapping[str, pl.DataType] = {
    ID: pl.String(),
    EVENT_TIME: pl.Int64(),
    KNOWN_TIME: pl.Int64(),
    PUBLISHED: pl.Int64(),
}
DTYPE_BY_TYPE: Mapping[str, pl.DataType] = {
    "string": pl.String(),
    "int64": pl.Int64(),
    "float64": pl.Float64(),
    "bool": pl.Boolean(),
    "timestamp": pl.Int64(),
}
EXPRESSIONS_CACHED_MAX = 1_024
NO_MOMENTS = np.empty(0, dtype=np.int64)
MOMENT_MAX = 2**62  # a window or a lag may be added without leaving int64


def to_observations(
    records: RecordBatch, stream: Stream, layouts: Sequence[Layout], erased: ErasedEntities
) -> Observations:
    """The columns that the layouts need, and which records speak of an erased entity.

    Raises Invalid EMPTY, DECODE_ERROR, BAD_ID or BAD_TIMESTAMP when one record is not as ingest
    publishes them.
    """
    return observations_of(
        _decoded(records.values(), types_of(stream, layouts, erased)),
        layouts,
        erased,
        partitions=np.array(records.partitions, dtype=np.int64),
        offsets=np.array(records.offsets, dtype=np.int64),
    )


def types_of(
    stream: Stream, layouts: Sequence[Layout], erased: ErasedEntities
) -> dict[str, pl.DataType]:
    """Of the columns that the layouts need, and of those that entities are erased by."""
    asked = frozenset(stream.columns) & erased.columns()
    columns = sorted(asked.union(*(each.stream_columns for each in layouts)))
    return {name: DTYPE_BY_TYPE[stream.columns[name].type] for name in columns}


def observations_of(
    frame: pl.DataFrame,
    layouts: Sequence[Layout],
    erased: ErasedEntities,
    *,
    partitions: Ints,
    offsets: Ints,
) -> Observations:
    """`frame` has ENVELOPE's columns and those of `types_of`; raises Invalid BAD_TIMESTAMP."""
    made = _evaluated(frame, [e for each in layouts for e in each.expressions])
    kinds = {
        name: kind for each in layouts for name, kind in zip(each.columns, each.kinds, strict=True)
    }
    naming = {name for each in layouts for names in (each.entity, *each.keys) for name in names}
    gone = np.zeros(len(frame), dtype=np.bool_)
    gone[list(erased.found(frame, frame[EVENT_TIME]))] = True
    filters = [each.filter for each in layouts if each.filter is not None]
    return Observations(
        ids=Ids.of_arrow(frame[ID].to_arrow()),
        event_us=_moments(frame[EVENT_TIME]),
        known_us=_moments(frame[KNOWN_TIME]),
        published_ms=_filled(frame[PUBLISHED], -1),
        partitions=partitions,
        offsets=offsets,
        texts={name: named_texts(frame[name]) for name in sorted(naming)},
        numbers={
            name: _numbers(made[name] if name in made else frame[name], kind)
            for name, kind in kinds.items()
        },
        erased=gone,
        counted={
            text: _filled(holds, value=False) for text, holds in _evaluated(frame, filters).items()
        },
    )


def _evaluated(frame: pl.DataFrame, expressions: Sequence[Expression]) -> dict[str, pl.Series]:
    """By text; one that reads no column is as long as the others."""
    made = {each.text: _compiled(each).alias(each.text) for each in expressions}
    if not made:
        return {}
    rows = computed(frame, made.values())
    return {text: rows[text] for text in made}


@lru_cache(maxsize=EXPRESSIONS_CACHED_MAX)
def _compiled(expression: Expression) -> pl.Expr:
    return to_polars(expression)


def _decoded(values: Sequence[bytes | None], types: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """One row for each value; a line of JSON has no line break in it."""
    if not all(values):
        raise Invalid("EMPTY")
    lines = b"\n".join(cast(Sequence[bytes], values))
    try:
        frame = pl.read_ndjson(lines, schema={**ENVELOPE, **types})
    except pl.exceptions.ComputeError as err:
        raise Invalid("DECODE_ERROR") from err
    if len(frame) != len(values):
        raise Invalid("DECODE_ERROR", problem="a value is not one line")
    if frame[ID].null_count() or (frame[ID] == "").any():
        raise Invalid("BAD_ID")
    return frame


def _moments(moments: pl.Series) -> NDArray[np.int64]:
    us = moments.to_numpy()
    if moments.null_count() or not ((us >= 0) & (us < MOMENT_MAX)).all():
        raise Invalid("BAD_TIMESTAMP", column=moments.name)
    return us


def _filled(values: pl.Series, value: float) -> NDArray[Any]:
    """A query, which is dear for few rows, only where some are null."""
    return (values.fill_null(value) if values.null_count() else values).to_numpy()


def named_texts(values: pl.Series) -> NamedTexts:
    """As an entity is spelled; what names none is -1."""
    return _named_one_by_one(values) if len(values) <= FEW_ROWS_MAX else _named_at_once(values)


def _named_one_by_one(values: pl.Series) -> NamedTexts:
    """A dict finds the distinct ones of a few thousand sooner than polars does."""
    places: dict[object, int] = {}
    given = [places.setdefault(value, len(places)) for value in values.to_list()]
    texts = [text_of(value) or "" for value in places]
    codes = np.array([code if text else -1 for code, text in enumerate(texts)], dtype=np.int64)
    names = [entity_name((text,)) for text in texts]
    return NamedTexts(codes[np.array(given, dtype=np.int64)], texts, names)


def _named_at_once(values: pl.Series) -> NamedTexts:
    distinct = values.unique()
    texts = distinct.fill_null("") if distinct.dtype == pl.String else _spelled(distinct)
    names = (texts.str.len_chars().cast(pl.String) + ":" + texts).cast(pl.Binary)
    codes = pl.select(pl.when(texts != "").then(pl.int_range(len(texts))).otherwise(-1))
    rows = pl.DataFrame([values.alias("value")]).join(
        pl.DataFrame([distinct.alias("value"), codes.to_series().alias("code")]),
        on="value",
        how="left",
        nulls_equal=True,
        maintain_order="left",
    )
    return NamedTexts(rows["code"].to_numpy(), texts.to_list(), names.to_list())


def _spelled(values: pl.Series) -> pl.Series:
    return pl.Series([text_of(value) or "" for value in values.to_list()], dtype=pl.String)


def _numbers(values: pl.Series, kind: Kind) -> Numbers:
    if kind == "text":
        return _hashed(values)
    dense = values.cast(pl.Float64 if kind == "float64" else pl.Int64)
    return Numbers(_filled(dense, 0), _present(values))


def _hashed(values: pl.Series) -> Numbers:
    texts = values.fill_null("").cast(pl.Binary).to_list()
    hashes = Ids.of(texts).hashes().view(np.int64)
    return Numbers(hashes, _present(values))


def _present(values: pl.Series) -> NDArray[np.bool_]:
    if values.null_count():
        return values.is_not_null().to_numpy()
    return np.ones(len(values), dtype=np.bool_)


def to_query(
    request: wire.GetOnlineFeaturesRequest, features: tuple[str, ...] = ()
) -> GetOnlineFeatures:
    """`features` stand before those of the request. Raises Invalid BAD_REQUEST."""
    columns = {column.name: _to_column(column) for column in request.columns}
    if len(columns) != len(request.columns):
        raise Invalid("BAD_REQUEST", field="columns", problem="a column is given twice")
    return GetOnlineFeatures(
        features=(*features, *request.features) if request.features else features,
        columns=columns,
        as_of_us=np.array(request.as_of_us, dtype=np.int64) if request.as_of_us else NO_MOMENTS,
        include_times=request.include_times,
        staleness_max_ms=request.staleness_max_ms,
        prediction_ids=tuple(request.prediction_ids),
    )


def to_note_request(query: GetOnlineFeatures) -> wire.NoteServedRequest:
    request = wire.NoteServedRequest()
    request.query.features.extend(query.features)
    request.query.as_of_us.extend(query.as_of_us.tolist())
    request.query.prediction_ids.extend(query.prediction_ids)
    for name, column in query.columns.items():
        made = request.query.columns.add(name=name)
        if not isinstance(column, np.ndarray):
            made.strings.values.extend(text or "" for text in column)
        elif column.dtype == np.int64:
            made.int64s.values.extend(column.tolist())
        else:
            made.doubles.values.extend(column.tolist())
    return request


def to_correction_message(correction: Correction) -> events.FeaturesCorrected:
    return events.FeaturesCorrected(
        correction_id=correction.id,
        view=correction.view,
        entity=correction.entity,
        features=correction.features,
        stream=correction.stream,
        event_id=correction.event_id,
        event_time_us=correction.event_us,
        known_time_us=correction.known_us,
        prediction_ids=correction.prediction_ids,
        served_from_us=correction.served_from_us,
        served_until_us=correction.served_until_us,
        remembered_since_us=correction.remembered_since_us,
        part=correction.part,
        rows=correction.rows,
    )


def _to_column(column: wire.Column) -> Column:
    kind = column.WhichOneof("values")
    if kind == "strings":
        return list(column.strings.values)
    if kind == "int64s":
        return np.array(column.int64s.values, dtype=np.int64)
    return np.array(column.doubles.values, dtype=np.float64)


def to_online_response(rows: FeatureRows) -> bytes:
    times = rows.event_us
    return wire.GetOnlineFeaturesResponse(
        rows=len(rows.values),
        values=rows.values.astype("<f4", copy=False).tobytes(),
        event_times_us=b"" if times is None else times.astype("<i8", copy=False).tobytes(),
        known_until_us=rows.known_until_us,
    ).SerializeToString()


def to_training_command(request: wire.CreateTrainingSetRequest) -> CreateTrainingSet:
    if request.known_until_us <= 0:
        raise Invalid("BAD_REQUEST", field="known_until_us", problem="must be given")
    return CreateTrainingSet(request.recipe, request.known_until_us, request.published)


def to_training_manifest(made: Historical, digest: str) -> wire.TrainingSetManifest:
    return wire.TrainingSetManifest(
        features=made.features,
        rows=made.rows,
        known_until_us=made.known_until_us,
        delta_version_by_stream=made.version_by_stream,
        digest=digest,
        definitions_digest=made.definitions,
        spine=_to_spine(made.spine),
        raw_offsets=[wire.RawOffsets(**asdict(each)) for each in made.raw_offsets],
    )


def _to_spine(tally: SpineTally | None) -> wire.SpineTally | None:
    if tally is None:
        return None
    return wire.SpineTally(
        stream=tally.stream,
        records=tally.records,
        first_event_time_us=tally.first_us,
        last_event_time_us=tally.last_us,
        left_out=tally.left_out,
    )


def to_historical_query(query: wire.HistoricalQuery) -> GetHistoricalFeatures:
    if not query.features:
        raise Invalid("BAD_REQUEST", field="features", problem="must be given")
    known_as_of_us = query.known_as_of_us if query.HasField("known_as_of_us") else None
    if known_as_of_us is not None and known_as_of_us <= 0:
        raise Invalid("BAD_REQUEST", field="known_as_of_us", problem="must be positive")
    return GetHistoricalFeatures(
        features=tuple(query.features),
        known_as_of_us=known_as_of_us,
        version_by_stream=dict(query.delta_version_by_stream) or None,
        definitions=query.definitions_digest or None,
    )


def to_historical_manifest(
    made: Historical, *, rows_digest: str, digest: str
) -> wire.HistoricalManifest:
    return wire.HistoricalManifest(
        features=made.features,
        rows=made.rows,
        known_as_of_us=made.known_until_us,
        delta_version_by_stream=made.version_by_stream,
        definitions_digest=made.definitions,
        rows_digest=rows_digest,
        digest=digest,
    )


def to_observations_request(query: GetObservations) -> wire.GetObservationsRequest:
    return wire.GetObservationsRequest(
        layout_id=query.layout_id,
        partitions=query.partitions,
        entities=query.wanted.entities.astype("<u8").tobytes(),
        since_us=query.wanted.since_us.tolist(),
        until_us=query.wanted.until_us.tolist(),
    )


def to_observations_query(request: wire.GetObservationsRequest) -> GetObservations:
    """Raises Invalid BAD_REQUEST when the lengths differ, or the id is that of no layout."""
    if len(request.layout_id) != LAYOUT_ID_BYTES:
        problem = f"must have {LAYOUT_ID_BYTES} bytes"
        raise Invalid("BAD_REQUEST", field="layout_id", problem=problem)
    since_us, until_us = (np.array(m, np.int64) for m in (request.since_us, request.until_us))
    if len(request.entities) != 16 * len(since_us) or len(since_us) != len(until_us):
        raise Invalid("BAD_REQUEST", field="entities", problem="must have one length")
    entities = np.frombuffer(request.entities, "<u8").reshape(2, -1)
    wanted = Wanted(entities, since_us, until_us)
    return GetObservations(request.layout_id, tuple(request.partitions), wanted)


def to_observations_response(held: HeldObservations) -> wire.GetObservationsResponse:
    """Without the observations."""
    (topic_id,) = {place.log_id for place in held.places.values()} or {""}
    offsets = {number: place.offset for number, place in held.places.items()}
    return wire.GetObservationsResponse(topic_id=topic_id, next_by_partition=offsets)


def to_places(
    answer: wire.GetObservationsResponse, partitions: Iterable[int]
) -> dict[int, LogPlace]:
    """How far each of these had been read; a worker of an older version does not say."""
    offsets = answer.next_by_partition
    return {number: LogPlace(offsets.get(number, 0), answer.topic_id) for number in partitions}


def to_materialize(request: wire.MaterializeViewRequest) -> MaterializeView:
    until_us = request.until_us if request.HasField("until_us") else None
    return MaterializeView(request.view, request.from_us, until_us)


def to_materialized(made: Materialized) -> wire.MaterializeViewResponse:
    return wire.MaterializeViewResponse(
        rows=made.rows,
        reached_us=made.reached_us,
        until_us=made.until_us,
        definitions_digest=made.definition,
        delta_version=made.version,
        waits_for=made.waits_for,
    )


def to_skew_response(skew: Skew) -> wire.CheckSkewResponse:
    return wire.CheckSkewResponse(
        checked=skew.checked,
        mismatches=[
            wire.SkewMismatch(
                feature=each.feature,
                as_of_us=each.as_of_us,
                served=each.served,
                recomputed=each.recomputed,
                settled=each.settled,
            )
            for each in skew.mismatches
        ],
    )


def to_views_response(states: Sequence[ViewState]) -> wire.ListViewsResponse:
    return wire.ListViewsResponse(views=map(_to_view_state, states))


def _to_view_state(state: ViewState) -> wire.ViewState:
    status = wire.ViewStatus.Value(f"VIEW_STATUS_{state.status}")
    made = wire.ViewState(view=state.view, status=status)
    if (progress := state.progress) is not None:
        made.filling.files, made.filling.files_done = progress.files, progress.files_done
        made.filling.rows, made.filling.files_per_s = progress.rows, progress.files_per_s
    return made

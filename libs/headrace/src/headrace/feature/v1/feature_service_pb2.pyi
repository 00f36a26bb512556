from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ViewStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VIEW_STATUS_UNSPECIFIED: _ClassVar[ViewStatus]
    VIEW_STATUS_READY: _ClassVar[ViewStatus]
    VIEW_STATUS_FILLING: _ClassVar[ViewStatus]
    VIEW_STATUS_RESTORING: _ClassVar[ViewStatus]
    VIEW_STATUS_UNFIT: _ClassVar[ViewStatus]
VIEW_STATUS_UNSPECIFIED: ViewStatus
VIEW_STATUS_READY: ViewStatus
VIEW_STATUS_FILLING: ViewStatus
VIEW_STATUS_RESTORING: ViewStatus
VIEW_STATUS_UNFIT: ViewStatus

class GetOnlineFeaturesRequest(_message.Message):
    __slots__ = ("features", "columns", "as_of_us", "include_times", "staleness_max_ms", "prediction_ids")
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    AS_OF_US_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_TIMES_FIELD_NUMBER: _ClassVar[int]
    STALENESS_MAX_MS_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_IDS_FIELD_NUMBER: _ClassVar[int]
    features: _containers.RepeatedScalarFieldContainer[str]
    columns: _containers.RepeatedCompositeFieldContainer[Column]
    as_of_us: _containers.RepeatedScalarFieldContainer[int]
    include_times: bool
    staleness_max_ms: int
    prediction_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, features: _Optional[_Iterable[str]] = ..., columns: _Optional[_Iterable[_Union[Column, _Mapping]]] = ..., as_of_us: _Optional[_Iterable[int]] = ..., include_times: _Optional[bool] = ..., staleness_max_ms: _Optional[int] = ..., prediction_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class Column(_message.Message):
    __slots__ = ("name", "strings", "int64s", "doubles")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STRINGS_FIELD_NUMBER: _ClassVar[int]
    INT64S_FIELD_NUMBER: _ClassVar[int]
    DOUBLES_FIELD_NUMBER: _ClassVar[int]
    name: str
    strings: StringValues
    int64s: Int64Values
    doubles: DoubleValues
    def __init__(self, name: _Optional[str] = ..., strings: _Optional[_Union[StringValues, _Mapping]] = ..., int64s: _Optional[_Union[Int64Values, _Mapping]] = ..., doubles: _Optional[_Union[DoubleValues, _Mapping]] = ...) -> None: ...

class StringValues(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...

class Int64Values(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, values: _Optional[_Iterable[int]] = ...) -> None: ...

class DoubleValues(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class GetOnlineFeaturesResponse(_message.Message):
    __slots__ = ("rows", "values", "event_times_us", "known_until_us")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIMES_US_FIELD_NUMBER: _ClassVar[int]
    KNOWN_UNTIL_US_FIELD_NUMBER: _ClassVar[int]
    rows: int
    values: bytes
    event_times_us: bytes
    known_until_us: int
    def __init__(self, rows: _Optional[int] = ..., values: _Optional[bytes] = ..., event_times_us: _Optional[bytes] = ..., known_until_us: _Optional[int] = ...) -> None: ...

class CreateTrainingSetRequest(_message.Message):
    __slots__ = ("recipe", "known_until_us", "published")
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    KNOWN_UNTIL_US_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    recipe: str
    known_until_us: int
    published: bool
    def __init__(self, recipe: _Optional[str] = ..., known_until_us: _Optional[int] = ..., published: _Optional[bool] = ...) -> None: ...

class CreateTrainingSetResponse(_message.Message):
    __slots__ = ("arrow_ipc", "manifest")
    ARROW_IPC_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    arrow_ipc: bytes
    manifest: TrainingSetManifest
    def __init__(self, arrow_ipc: _Optional[bytes] = ..., manifest: _Optional[_Union[TrainingSetManifest, _Mapping]] = ...) -> None: ...

class TrainingSetManifest(_message.Message):
    __slots__ = ("features", "rows", "known_until_us", "delta_version_by_stream", "digest", "definitions_digest", "spine", "raw_offsets")
    class DeltaVersionByStreamEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    KNOWN_UNTIL_US_FIELD_NUMBER: _ClassVar[int]
    DELTA_VERSION_BY_STREAM_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    DEFINITIONS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SPINE_FIELD_NUMBER: _ClassVar[int]
    RAW_OFFSETS_FIELD_NUMBER: _ClassVar[int]
    features: _containers.RepeatedScalarFieldContainer[str]
    rows: int
    known_until_us: int
    delta_version_by_stream: _containers.ScalarMap[str, int]
    digest: str
    definitions_digest: str
    spine: SpineTally
    raw_offsets: _containers.RepeatedCompositeFieldContainer[RawOffsets]
    def __init__(self, features: _Optional[_Iterable[str]] = ..., rows: _Optional[int] = ..., known_until_us: _Optional[int] = ..., delta_version_by_stream: _Optional[_Mapping[str, int]] = ..., digest: _Optional[str] = ..., definitions_digest: _Optional[str] = ..., spine: _Optional[_Union[SpineTally, _Mapping]] = ..., raw_offsets: _Optional[_Iterable[_Union[RawOffsets, _Mapping]]] = ...) -> None: ...

class RawOffsets(_message.Message):
    __slots__ = ("stream", "partition", "first", "last")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    stream: str
    partition: int
    first: int
    last: int
    def __init__(self, stream: _Optional[str] = ..., partition: _Optional[int] = ..., first: _Optional[int] = ..., last: _Optional[int] = ...) -> None: ...

class SpineTally(_message.Message):
    __slots__ = ("stream", "records", "first_event_time_us", "last_event_time_us", "left_out")
    class LeftOutEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    STREAM_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    FIRST_EVENT_TIME_US_FIELD_NUMBER: _ClassVar[int]
    LAST_EVENT_TIME_US_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    stream: str
    records: int
    first_event_time_us: int
    last_event_time_us: int
    left_out: _containers.ScalarMap[str, int]
    def __init__(self, stream: _Optional[str] = ..., records: _Optional[int] = ..., first_event_time_us: _Optional[int] = ..., last_event_time_us: _Optional[int] = ..., left_out: _Optional[_Mapping[str, int]] = ...) -> None: ...

class GetHistoricalFeaturesRequest(_message.Message):
    __slots__ = ("query", "arrow_ipc")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    ARROW_IPC_FIELD_NUMBER: _ClassVar[int]
    query: HistoricalQuery
    arrow_ipc: bytes
    def __init__(self, query: _Optional[_Union[HistoricalQuery, _Mapping]] = ..., arrow_ipc: _Optional[bytes] = ...) -> None: ...

class HistoricalQuery(_message.Message):
    __slots__ = ("features", "known_as_of_us", "delta_version_by_stream", "definitions_digest")
    class DeltaVersionByStreamEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    KNOWN_AS_OF_US_FIELD_NUMBER: _ClassVar[int]
    DELTA_VERSION_BY_STREAM_FIELD_NUMBER: _ClassVar[int]
    DEFINITIONS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    features: _containers.RepeatedScalarFieldContainer[str]
    known_as_of_us: int
    delta_version_by_stream: _containers.ScalarMap[str, int]
    definitions_digest: str
    def __init__(self, features: _Optional[_Iterable[str]] = ..., known_as_of_us: _Optional[int] = ..., delta_version_by_stream: _Optional[_Mapping[str, int]] = ..., definitions_digest: _Optional[str] = ...) -> None: ...

class GetHistoricalFeaturesResponse(_message.Message):
    __slots__ = ("arrow_ipc", "manifest")
    ARROW_IPC_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    arrow_ipc: bytes
    manifest: HistoricalManifest
    def __init__(self, arrow_ipc: _Optional[bytes] = ..., manifest: _Optional[_Union[HistoricalManifest, _Mapping]] = ...) -> None: ...

class HistoricalManifest(_message.Message):
    __slots__ = ("features", "rows", "known_as_of_us", "delta_version_by_stream", "definitions_digest", "rows_digest", "digest")
    class DeltaVersionByStreamEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    KNOWN_AS_OF_US_FIELD_NUMBER: _ClassVar[int]
    DELTA_VERSION_BY_STREAM_FIELD_NUMBER: _ClassVar[int]
    DEFINITIONS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ROWS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    features: _containers.RepeatedScalarFieldContainer[str]
    rows: int
    known_as_of_us: int
    delta_version_by_stream: _containers.ScalarMap[str, int]
    definitions_digest: str
    rows_digest: str
    digest: str
    def __init__(self, features: _Optional[_Iterable[str]] = ..., rows: _Optional[int] = ..., known_as_of_us: _Optional[int] = ..., delta_version_by_stream: _Optional[_Mapping[str, int]] = ..., definitions_digest: _Optional[str] = ..., rows_digest: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

class MaterializeViewRequest(_message.Message):
    __slots__ = ("view", "from_us", "until_us")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    FROM_US_FIELD_NUMBER: _ClassVar[int]
    UNTIL_US_FIELD_NUMBER: _ClassVar[int]
    view: str
    from_us: int
    until_us: int
    def __init__(self, view: _Optional[str] = ..., from_us: _Optional[int] = ..., until_us: _Optional[int] = ...) -> None: ...

class MaterializeViewResponse(_message.Message):
    __slots__ = ("rows", "reached_us", "until_us", "definitions_digest", "delta_version", "waits_for")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    REACHED_US_FIELD_NUMBER: _ClassVar[int]
    UNTIL_US_FIELD_NUMBER: _ClassVar[int]
    DEFINITIONS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DELTA_VERSION_FIELD_NUMBER: _ClassVar[int]
    WAITS_FOR_FIELD_NUMBER: _ClassVar[int]
    rows: int
    reached_us: int
    until_us: int
    definitions_digest: str
    delta_version: int
    waits_for: str
    def __init__(self, rows: _Optional[int] = ..., reached_us: _Optional[int] = ..., until_us: _Optional[int] = ..., definitions_digest: _Optional[str] = ..., delta_version: _Optional[int] = ..., waits_for: _Optional[str] = ...) -> None: ...

class CheckSkewRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CheckSkewResponse(_message.Message):
    __slots__ = ("checked", "mismatches")
    CHECKED_FIELD_NUMBER: _ClassVar[int]
    MISMATCHES_FIELD_NUMBER: _ClassVar[int]
    checked: int
    mismatches: _containers.RepeatedCompositeFieldContainer[SkewMismatch]
    def __init__(self, checked: _Optional[int] = ..., mismatches: _Optional[_Iterable[_Union[SkewMismatch, _Mapping]]] = ...) -> None: ...

class SkewMismatch(_message.Message):
    __slots__ = ("feature", "as_of_us", "served", "recomputed", "settled")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    AS_OF_US_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    RECOMPUTED_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    feature: str
    as_of_us: int
    served: float
    recomputed: float
    settled: bool
    def __init__(self, feature: _Optional[str] = ..., as_of_us: _Optional[int] = ..., served: _Optional[float] = ..., recomputed: _Optional[float] = ..., settled: _Optional[bool] = ...) -> None: ...

class ListViewsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListViewsResponse(_message.Message):
    __slots__ = ("views",)
    VIEWS_FIELD_NUMBER: _ClassVar[int]
    views: _containers.RepeatedCompositeFieldContainer[ViewState]
    def __init__(self, views: _Optional[_Iterable[_Union[ViewState, _Mapping]]] = ...) -> None: ...

class ViewState(_message.Message):
    __slots__ = ("view", "status", "filling")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    FILLING_FIELD_NUMBER: _ClassVar[int]
    view: str
    status: ViewStatus
    filling: Filling
    def __init__(self, view: _Optional[str] = ..., status: _Optional[_Union[ViewStatus, str]] = ..., filling: _Optional[_Union[Filling, _Mapping]] = ...) -> None: ...

class Filling(_message.Message):
    __slots__ = ("files", "files_done", "rows", "files_per_s")
    FILES_FIELD_NUMBER: _ClassVar[int]
    FILES_DONE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    FILES_PER_S_FIELD_NUMBER: _ClassVar[int]
    files: int
    files_done: int
    rows: int
    files_per_s: float
    def __init__(self, files: _Optional[int] = ..., files_done: _Optional[int] = ..., rows: _Optional[int] = ..., files_per_s: _Optional[float] = ...) -> None: ...

class GetFreshnessRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetFreshnessResponse(_message.Message):
    __slots__ = ("records", "p50_ms", "p99_ms")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    P50_MS_FIELD_NUMBER: _ClassVar[int]
    P99_MS_FIELD_NUMBER: _ClassVar[int]
    records: int
    p50_ms: float
    p99_ms: float
    def __init__(self, records: _Optional[int] = ..., p50_ms: _Optional[float] = ..., p99_ms: _Optional[float] = ...) -> None: ...

class GetObservationsRequest(_message.Message):
    __slots__ = ("layout_id", "partitions", "entities", "since_us", "until_us")
    LAYOUT_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    SINCE_US_FIELD_NUMBER: _ClassVar[int]
    UNTIL_US_FIELD_NUMBER: _ClassVar[int]
    layout_id: bytes
    partitions: _containers.RepeatedScalarFieldContainer[int]
    entities: bytes
    since_us: _containers.RepeatedScalarFieldContainer[int]
    until_us: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, layout_id: _Optional[bytes] = ..., partitions: _Optional[_Iterable[int]] = ..., entities: _Optional[bytes] = ..., since_us: _Optional[_Iterable[int]] = ..., until_us: _Optional[_Iterable[int]] = ...) -> None: ...

class GetObservationsResponse(_message.Message):
    __slots__ = ("run", "bytes", "next_by_partition", "topic_id")
    class NextByPartitionEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    RUN_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    NEXT_BY_PARTITION_FIELD_NUMBER: _ClassVar[int]
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    run: bytes
    bytes: int
    next_by_partition: _containers.ScalarMap[int, int]
    topic_id: str
    def __init__(self, run: _Optional[bytes] = ..., bytes: _Optional[int] = ..., next_by_partition: _Optional[_Mapping[int, int]] = ..., topic_id: _Optional[str] = ...) -> None: ...

class StreamObservationsRequest(_message.Message):
    __slots__ = ("query",)
    QUERY_FIELD_NUMBER: _ClassVar[int]
    query: GetObservationsRequest
    def __init__(self, query: _Optional[_Union[GetObservationsRequest, _Mapping]] = ...) -> None: ...

class StreamObservationsResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: bytes
    def __init__(self, run: _Optional[bytes] = ...) -> None: ...

class NoteServedRequest(_message.Message):
    __slots__ = ("query",)
    QUERY_FIELD_NUMBER: _ClassVar[int]
    query: GetOnlineFeaturesRequest
    def __init__(self, query: _Optional[_Union[GetOnlineFeaturesRequest, _Mapping]] = ...) -> None: ...

class NoteServedResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class FeaturesCorrected(_message.Message):
    __slots__ = ("correction_id", "view", "entity", "features", "stream", "event_id", "event_time_us", "known_time_us", "prediction_ids", "served_from_us", "served_until_us", "remembered_since_us", "part", "rows")
    class EntityEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CORRECTION_ID_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_US_FIELD_NUMBER: _ClassVar[int]
    KNOWN_TIME_US_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_IDS_FIELD_NUMBER: _ClassVar[int]
    SERVED_FROM_US_FIELD_NUMBER: _ClassVar[int]
    SERVED_UNTIL_US_FIELD_NUMBER: _ClassVar[int]
    REMEMBERED_SINCE_US_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    correction_id: str
    view: str
    entity: _containers.ScalarMap[str, str]
    features: _containers.RepeatedScalarFieldContainer[str]
    stream: str
    event_id: str
    event_time_us: int
    known_time_us: int
    prediction_ids: _containers.RepeatedScalarFieldContainer[str]
    served_from_us: int
    served_until_us: int
    remembered_since_us: int
    part: int
    rows: int
    def __init__(self, correction_id: _Optional[str] = ..., view: _Optional[str] = ..., entity: _Optional[_Mapping[str, str]] = ..., features: _Optional[_Iterable[str]] = ..., stream: _Optional[str] = ..., event_id: _Optional[str] = ..., event_time_us: _Optional[int] = ..., known_time_us: _Optional[int] = ..., prediction_ids: _Optional[_Iterable[str]] = ..., served_from_us: _Optional[int] = ..., served_until_us: _Optional[int] = ..., remembered_since_us: _Optional[int] = ..., part: _Optional[int] = ..., rows: _Optional[int] = ...) -> None: ...

class FeatureRowChanged(_message.Message):
    __slots__ = ("view", "entity", "features", "values", "from_us", "until_us", "partition", "next_offset", "definition_digest", "topic_id")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    FROM_US_FIELD_NUMBER: _ClassVar[int]
    UNTIL_US_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    NEXT_OFFSET_FIELD_NUMBER: _ClassVar[int]
    DEFINITION_DIGEST_FIELD_NUMBER: _ClassVar[int]
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    view: str
    entity: str
    features: _containers.RepeatedScalarFieldContainer[str]
    values: bytes
    from_us: int
    until_us: int
    partition: int
    next_offset: int
    definition_digest: str
    topic_id: str
    def __init__(self, view: _Optional[str] = ..., entity: _Optional[str] = ..., features: _Optional[_Iterable[str]] = ..., values: _Optional[bytes] = ..., from_us: _Optional[int] = ..., until_us: _Optional[int] = ..., partition: _Optional[int] = ..., next_offset: _Optional[int] = ..., definition_digest: _Optional[str] = ..., topic_id: _Optional[str] = ...) -> None: ...

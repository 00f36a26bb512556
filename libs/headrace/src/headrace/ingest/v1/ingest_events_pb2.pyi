from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StreamQualityMeasured(_message.Message):
    __slots__ = ("stream", "contract_version", "minute_us", "received", "stored", "late", "repeats", "refused_by_reason", "lateness_us_mean", "lateness_us_max", "columns", "offsets")
    class RefusedByReasonEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    STREAM_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_VERSION_FIELD_NUMBER: _ClassVar[int]
    MINUTE_US_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    REPEATS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_BY_REASON_FIELD_NUMBER: _ClassVar[int]
    LATENESS_US_MEAN_FIELD_NUMBER: _ClassVar[int]
    LATENESS_US_MAX_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    stream: str
    contract_version: int
    minute_us: int
    received: int
    stored: int
    late: int
    repeats: int
    refused_by_reason: _containers.ScalarMap[str, int]
    lateness_us_mean: float
    lateness_us_max: int
    columns: _containers.RepeatedCompositeFieldContainer[ColumnQuality]
    offsets: _containers.RepeatedCompositeFieldContainer[OffsetRange]
    def __init__(self, stream: _Optional[str] = ..., contract_version: _Optional[int] = ..., minute_us: _Optional[int] = ..., received: _Optional[int] = ..., stored: _Optional[int] = ..., late: _Optional[int] = ..., repeats: _Optional[int] = ..., refused_by_reason: _Optional[_Mapping[str, int]] = ..., lateness_us_mean: _Optional[float] = ..., lateness_us_max: _Optional[int] = ..., columns: _Optional[_Iterable[_Union[ColumnQuality, _Mapping]]] = ..., offsets: _Optional[_Iterable[_Union[OffsetRange, _Mapping]]] = ...) -> None: ...

class ColumnQuality(_message.Message):
    __slots__ = ("column", "nulls", "distinct", "min", "max")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    NULLS_FIELD_NUMBER: _ClassVar[int]
    DISTINCT_FIELD_NUMBER: _ClassVar[int]
    MIN_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    column: str
    nulls: int
    distinct: int
    min: float
    max: float
    def __init__(self, column: _Optional[str] = ..., nulls: _Optional[int] = ..., distinct: _Optional[int] = ..., min: _Optional[float] = ..., max: _Optional[float] = ...) -> None: ...

class OffsetRange(_message.Message):
    __slots__ = ("partition", "first", "end")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    partition: int
    first: int
    end: int
    def __init__(self, partition: _Optional[int] = ..., first: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

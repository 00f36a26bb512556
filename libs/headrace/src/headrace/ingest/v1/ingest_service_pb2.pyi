from headrace.ingest.v1 import catalogue_pb2 as _catalogue_pb2
from headrace.ingest.v1 import datasets_pb2 as _datasets_pb2
from headrace.ingest.v1 import erasures_pb2 as _erasures_pb2
from headrace.ingest.v1 import text_search_pb2 as _text_search_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PublishRequest(_message.Message):
    __slots__ = ("stream", "items")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    stream: str
    items: _containers.RepeatedCompositeFieldContainer[PublishItem]
    def __init__(self, stream: _Optional[str] = ..., items: _Optional[_Iterable[_Union[PublishItem, _Mapping]]] = ...) -> None: ...

class PublishItem(_message.Message):
    __slots__ = ("event_id", "key", "value")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    key: bytes
    value: bytes
    def __init__(self, event_id: _Optional[str] = ..., key: _Optional[bytes] = ..., value: _Optional[bytes] = ...) -> None: ...

class PublishResponse(_message.Message):
    __slots__ = ("statuses",)
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    statuses: _containers.RepeatedCompositeFieldContainer[PublishStatus]
    def __init__(self, statuses: _Optional[_Iterable[_Union[PublishStatus, _Mapping]]] = ...) -> None: ...

class PublishStatus(_message.Message):
    __slots__ = ("accepted", "reason", "repeat")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REPEAT_FIELD_NUMBER: _ClassVar[int]
    accepted: bool
    reason: str
    repeat: bool
    def __init__(self, accepted: _Optional[bool] = ..., reason: _Optional[str] = ..., repeat: _Optional[bool] = ...) -> None: ...

class PublishStreamRequest(_message.Message):
    __slots__ = ("stream", "items")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    stream: str
    items: _containers.RepeatedCompositeFieldContainer[PublishItem]
    def __init__(self, stream: _Optional[str] = ..., items: _Optional[_Iterable[_Union[PublishItem, _Mapping]]] = ...) -> None: ...

class PublishStreamResponse(_message.Message):
    __slots__ = ("items", "exceptions")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    EXCEPTIONS_FIELD_NUMBER: _ClassVar[int]
    items: int
    exceptions: _containers.RepeatedCompositeFieldContainer[PublishException]
    def __init__(self, items: _Optional[int] = ..., exceptions: _Optional[_Iterable[_Union[PublishException, _Mapping]]] = ...) -> None: ...

class PublishException(_message.Message):
    __slots__ = ("index", "reason", "repeat")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REPEAT_FIELD_NUMBER: _ClassVar[int]
    index: int
    reason: str
    repeat: bool
    def __init__(self, index: _Optional[int] = ..., reason: _Optional[str] = ..., repeat: _Optional[bool] = ...) -> None: ...

class ListStreamCountsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListStreamCountsResponse(_message.Message):
    __slots__ = ("streams",)
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    streams: _containers.RepeatedCompositeFieldContainer[StreamCounts]
    def __init__(self, streams: _Optional[_Iterable[_Union[StreamCounts, _Mapping]]] = ...) -> None: ...

class StreamCounts(_message.Message):
    __slots__ = ("stream", "received", "stored", "dead_lettered_by_reason", "repeats", "late", "stopped_reason", "redriven", "stopped_details", "contract_version", "counts_unknown")
    class DeadLetteredByReasonEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class StoppedDetailsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    STREAM_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTERED_BY_REASON_FIELD_NUMBER: _ClassVar[int]
    REPEATS_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    STOPPED_REASON_FIELD_NUMBER: _ClassVar[int]
    REDRIVEN_FIELD_NUMBER: _ClassVar[int]
    STOPPED_DETAILS_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_VERSION_FIELD_NUMBER: _ClassVar[int]
    COUNTS_UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    stream: str
    received: int
    stored: int
    dead_lettered_by_reason: _containers.ScalarMap[str, int]
    repeats: int
    late: int
    stopped_reason: str
    redriven: int
    stopped_details: _containers.ScalarMap[str, str]
    contract_version: int
    counts_unknown: bool
    def __init__(self, stream: _Optional[str] = ..., received: _Optional[int] = ..., stored: _Optional[int] = ..., dead_lettered_by_reason: _Optional[_Mapping[str, int]] = ..., repeats: _Optional[int] = ..., late: _Optional[int] = ..., stopped_reason: _Optional[str] = ..., redriven: _Optional[int] = ..., stopped_details: _Optional[_Mapping[str, str]] = ..., contract_version: _Optional[int] = ..., counts_unknown: _Optional[bool] = ...) -> None: ...

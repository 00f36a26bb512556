from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EraseEntityRequest(_message.Message):
    __slots__ = ("request_id", "column", "value")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    column: str
    value: str
    def __init__(self, request_id: _Optional[str] = ..., column: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class EraseEntityResponse(_message.Message):
    __slots__ = ("erasure",)
    ERASURE_FIELD_NUMBER: _ClassVar[int]
    erasure: Erasure
    def __init__(self, erasure: _Optional[_Union[Erasure, _Mapping]] = ...) -> None: ...

class ListErasuresRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListErasuresResponse(_message.Message):
    __slots__ = ("erasures", "next_page_token")
    ERASURES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    erasures: _containers.RepeatedCompositeFieldContainer[Erasure]
    next_page_token: str
    def __init__(self, erasures: _Optional[_Iterable[_Union[Erasure, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Erasure(_message.Message):
    __slots__ = ("id", "column", "entity_sha256", "erased_at_us", "settled", "streams", "datasets", "trained_versions", "views", "unreadable")
    ID_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    ENTITY_SHA256_FIELD_NUMBER: _ClassVar[int]
    ERASED_AT_US_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    TRAINED_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    VIEWS_FIELD_NUMBER: _ClassVar[int]
    UNREADABLE_FIELD_NUMBER: _ClassVar[int]
    id: str
    column: str
    entity_sha256: str
    erased_at_us: int
    settled: bool
    streams: _containers.RepeatedCompositeFieldContainer[ErasedStream]
    datasets: _containers.RepeatedCompositeFieldContainer[ErasedDataset]
    trained_versions: _containers.RepeatedCompositeFieldContainer[TrainedVersion]
    views: _containers.RepeatedCompositeFieldContainer[ErasedView]
    unreadable: bool
    def __init__(self, id: _Optional[str] = ..., column: _Optional[str] = ..., entity_sha256: _Optional[str] = ..., erased_at_us: _Optional[int] = ..., settled: _Optional[bool] = ..., streams: _Optional[_Iterable[_Union[ErasedStream, _Mapping]]] = ..., datasets: _Optional[_Iterable[_Union[ErasedDataset, _Mapping]]] = ..., trained_versions: _Optional[_Iterable[_Union[TrainedVersion, _Mapping]]] = ..., views: _Optional[_Iterable[_Union[ErasedView, _Mapping]]] = ..., unreadable: _Optional[bool] = ...) -> None: ...

class ErasedStream(_message.Message):
    __slots__ = ("stream", "rows")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    stream: str
    rows: int
    def __init__(self, stream: _Optional[str] = ..., rows: _Optional[int] = ...) -> None: ...

class ErasedView(_message.Message):
    __slots__ = ("view", "rows", "published_rows", "taken_back")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_ROWS_FIELD_NUMBER: _ClassVar[int]
    TAKEN_BACK_FIELD_NUMBER: _ClassVar[int]
    view: str
    rows: int
    published_rows: int
    taken_back: bool
    def __init__(self, view: _Optional[str] = ..., rows: _Optional[int] = ..., published_rows: _Optional[int] = ..., taken_back: _Optional[bool] = ...) -> None: ...

class ErasedDataset(_message.Message):
    __slots__ = ("name", "number", "rows")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    name: str
    number: int
    rows: int
    def __init__(self, name: _Optional[str] = ..., number: _Optional[int] = ..., rows: _Optional[int] = ...) -> None: ...

class TrainedVersion(_message.Message):
    __slots__ = ("model", "version", "streams")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    streams: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., streams: _Optional[_Iterable[str]] = ...) -> None: ...

class EntityErased(_message.Message):
    __slots__ = ("column", "entity_sha256", "erased_at_us", "streams")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    ENTITY_SHA256_FIELD_NUMBER: _ClassVar[int]
    ERASED_AT_US_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    column: str
    entity_sha256: str
    erased_at_us: int
    streams: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, column: _Optional[str] = ..., entity_sha256: _Optional[str] = ..., erased_at_us: _Optional[int] = ..., streams: _Optional[_Iterable[str]] = ...) -> None: ...

class EventsErased(_message.Message):
    __slots__ = ("stream", "column", "entity_sha256", "erased_at_us", "event_ids", "event_times_us", "entity_key_digest")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    ENTITY_SHA256_FIELD_NUMBER: _ClassVar[int]
    ERASED_AT_US_FIELD_NUMBER: _ClassVar[int]
    EVENT_IDS_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIMES_US_FIELD_NUMBER: _ClassVar[int]
    ENTITY_KEY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    stream: str
    column: str
    entity_sha256: str
    erased_at_us: int
    event_ids: _containers.RepeatedScalarFieldContainer[str]
    event_times_us: _containers.RepeatedScalarFieldContainer[int]
    entity_key_digest: bytes
    def __init__(self, stream: _Optional[str] = ..., column: _Optional[str] = ..., entity_sha256: _Optional[str] = ..., erased_at_us: _Optional[int] = ..., event_ids: _Optional[_Iterable[str]] = ..., event_times_us: _Optional[_Iterable[int]] = ..., entity_key_digest: _Optional[bytes] = ...) -> None: ...

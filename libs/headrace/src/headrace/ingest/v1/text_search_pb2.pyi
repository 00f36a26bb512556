from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SearchTextRequest(_message.Message):
    __slots__ = ("stream", "column", "query", "limit")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    stream: str
    column: str
    query: str
    limit: int
    def __init__(self, stream: _Optional[str] = ..., column: _Optional[str] = ..., query: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class SearchTextResponse(_message.Message):
    __slots__ = ("matches", "complete")
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    matches: _containers.RepeatedCompositeFieldContainer[TextMatch]
    complete: bool
    def __init__(self, matches: _Optional[_Iterable[_Union[TextMatch, _Mapping]]] = ..., complete: _Optional[bool] = ...) -> None: ...

class TextMatch(_message.Message):
    __slots__ = ("event_id", "text", "similarity")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    text: str
    similarity: float
    def __init__(self, event_id: _Optional[str] = ..., text: _Optional[str] = ..., similarity: _Optional[float] = ...) -> None: ...

from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DeadLetterFilter(_message.Message):
    __slots__ = ("stream", "reason", "since_ms", "until_ms")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_MS_FIELD_NUMBER: _ClassVar[int]
    stream: str
    reason: str
    since_ms: int
    until_ms: int
    def __init__(self, stream: _Optional[str] = ..., reason: _Optional[str] = ..., since_ms: _Optional[int] = ..., until_ms: _Optional[int] = ...) -> None: ...

class DeadLetter(_message.Message):
    __slots__ = ("id", "stream", "partition", "offset", "key", "reasons", "attempt", "set_aside_ms", "sha256", "value_bytes", "pointer", "redriven", "faults")
    ID_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SET_ASIDE_MS_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    VALUE_BYTES_FIELD_NUMBER: _ClassVar[int]
    POINTER_FIELD_NUMBER: _ClassVar[int]
    REDRIVEN_FIELD_NUMBER: _ClassVar[int]
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    id: str
    stream: str
    partition: int
    offset: int
    key: bytes
    reasons: _containers.RepeatedScalarFieldContainer[str]
    attempt: int
    set_aside_ms: int
    sha256: str
    value_bytes: int
    pointer: bool
    redriven: bool
    faults: _containers.RepeatedCompositeFieldContainer[RecordFault]
    def __init__(self, id: _Optional[str] = ..., stream: _Optional[str] = ..., partition: _Optional[int] = ..., offset: _Optional[int] = ..., key: _Optional[bytes] = ..., reasons: _Optional[_Iterable[str]] = ..., attempt: _Optional[int] = ..., set_aside_ms: _Optional[int] = ..., sha256: _Optional[str] = ..., value_bytes: _Optional[int] = ..., pointer: _Optional[bool] = ..., redriven: _Optional[bool] = ..., faults: _Optional[_Iterable[_Union[RecordFault, _Mapping]]] = ...) -> None: ...

class RecordFault(_message.Message):
    __slots__ = ("reason", "place")
    REASON_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    place: str
    def __init__(self, reason: _Optional[str] = ..., place: _Optional[str] = ...) -> None: ...

class ListDeadLettersRequest(_message.Message):
    __slots__ = ("filter", "page_size", "page_token", "with_redriven")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WITH_REDRIVEN_FIELD_NUMBER: _ClassVar[int]
    filter: DeadLetterFilter
    page_size: int
    page_token: str
    with_redriven: bool
    def __init__(self, filter: _Optional[_Union[DeadLetterFilter, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., with_redriven: _Optional[bool] = ...) -> None: ...

class ListDeadLettersResponse(_message.Message):
    __slots__ = ("letters", "next_page_token", "counts", "more_uncounted")
    LETTERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    MORE_UNCOUNTED_FIELD_NUMBER: _ClassVar[int]
    letters: _containers.RepeatedCompositeFieldContainer[DeadLetter]
    next_page_token: str
    counts: _containers.RepeatedCompositeFieldContainer[DeadLetterCount]
    more_uncounted: bool
    def __init__(self, letters: _Optional[_Iterable[_Union[DeadLetter, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., counts: _Optional[_Iterable[_Union[DeadLetterCount, _Mapping]]] = ..., more_uncounted: _Optional[bool] = ...) -> None: ...

class DeadLetterCount(_message.Message):
    __slots__ = ("stream", "reason", "waiting", "redriven")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    REDRIVEN_FIELD_NUMBER: _ClassVar[int]
    stream: str
    reason: str
    waiting: int
    redriven: int
    def __init__(self, stream: _Optional[str] = ..., reason: _Optional[str] = ..., waiting: _Optional[int] = ..., redriven: _Optional[int] = ...) -> None: ...

class GetDeadLetterRequest(_message.Message):
    __slots__ = ("id", "value_bytes_max")
    ID_FIELD_NUMBER: _ClassVar[int]
    VALUE_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    id: str
    value_bytes_max: int
    def __init__(self, id: _Optional[str] = ..., value_bytes_max: _Optional[int] = ...) -> None: ...

class GetDeadLetterResponse(_message.Message):
    __slots__ = ("letter", "headers", "value", "next_steps", "reasons_now", "faults_now")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    LETTER_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    NEXT_STEPS_FIELD_NUMBER: _ClassVar[int]
    REASONS_NOW_FIELD_NUMBER: _ClassVar[int]
    FAULTS_NOW_FIELD_NUMBER: _ClassVar[int]
    letter: DeadLetter
    headers: _containers.ScalarMap[str, bytes]
    value: bytes
    next_steps: _containers.RepeatedScalarFieldContainer[str]
    reasons_now: _containers.RepeatedScalarFieldContainer[str]
    faults_now: _containers.RepeatedCompositeFieldContainer[RecordFault]
    def __init__(self, letter: _Optional[_Union[DeadLetter, _Mapping]] = ..., headers: _Optional[_Mapping[str, bytes]] = ..., value: _Optional[bytes] = ..., next_steps: _Optional[_Iterable[str]] = ..., reasons_now: _Optional[_Iterable[str]] = ..., faults_now: _Optional[_Iterable[_Union[RecordFault, _Mapping]]] = ...) -> None: ...

class RedriveDeadLettersRequest(_message.Message):
    __slots__ = ("filter", "ids", "dry_run", "letters_max")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    LETTERS_MAX_FIELD_NUMBER: _ClassVar[int]
    filter: DeadLetterFilter
    ids: _containers.RepeatedScalarFieldContainer[str]
    dry_run: bool
    letters_max: int
    def __init__(self, filter: _Optional[_Union[DeadLetterFilter, _Mapping]] = ..., ids: _Optional[_Iterable[str]] = ..., dry_run: _Optional[bool] = ..., letters_max: _Optional[int] = ...) -> None: ...

class RedriveDeadLettersResponse(_message.Message):
    __slots__ = ("sent", "skipped_by_reason", "refused_by_reason", "more")
    class SkippedByReasonEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class RefusedByReasonEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SENT_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_BY_REASON_FIELD_NUMBER: _ClassVar[int]
    REFUSED_BY_REASON_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    sent: int
    skipped_by_reason: _containers.ScalarMap[str, int]
    refused_by_reason: _containers.ScalarMap[str, int]
    more: bool
    def __init__(self, sent: _Optional[int] = ..., skipped_by_reason: _Optional[_Mapping[str, int]] = ..., refused_by_reason: _Optional[_Mapping[str, int]] = ..., more: _Optional[bool] = ...) -> None: ...

from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LabelState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LABEL_STATE_UNSPECIFIED: _ClassVar[LabelState]
    LABEL_STATE_PENDING: _ClassVar[LabelState]
    LABEL_STATE_KNOWN: _ClassVar[LabelState]
    LABEL_STATE_ABSENT: _ClassVar[LabelState]
LABEL_STATE_UNSPECIFIED: LabelState
LABEL_STATE_PENDING: LabelState
LABEL_STATE_KNOWN: LabelState
LABEL_STATE_ABSENT: LabelState

class LookUpLabelsRequest(_message.Message):
    __slots__ = ("label", "targets", "known_until_us", "with_weak")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    KNOWN_UNTIL_US_FIELD_NUMBER: _ClassVar[int]
    WITH_WEAK_FIELD_NUMBER: _ClassVar[int]
    label: str
    targets: _containers.RepeatedCompositeFieldContainer[LabelTarget]
    known_until_us: int
    with_weak: bool
    def __init__(self, label: _Optional[str] = ..., targets: _Optional[_Iterable[_Union[LabelTarget, _Mapping]]] = ..., known_until_us: _Optional[int] = ..., with_weak: _Optional[bool] = ...) -> None: ...

class LabelTarget(_message.Message):
    __slots__ = ("key", "as_of_us")
    KEY_FIELD_NUMBER: _ClassVar[int]
    AS_OF_US_FIELD_NUMBER: _ClassVar[int]
    key: str
    as_of_us: int
    def __init__(self, key: _Optional[str] = ..., as_of_us: _Optional[int] = ...) -> None: ...

class LookUpLabelsResponse(_message.Message):
    __slots__ = ("labels",)
    LABELS_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.RepeatedCompositeFieldContainer[FoundLabel]
    def __init__(self, labels: _Optional[_Iterable[_Union[FoundLabel, _Mapping]]] = ...) -> None: ...

class FoundLabel(_message.Message):
    __slots__ = ("state", "value", "origin", "event_id", "event_time_us", "known_time_us")
    STATE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_US_FIELD_NUMBER: _ClassVar[int]
    KNOWN_TIME_US_FIELD_NUMBER: _ClassVar[int]
    state: LabelState
    value: LabelValue
    origin: str
    event_id: str
    event_time_us: int
    known_time_us: int
    def __init__(self, state: _Optional[_Union[LabelState, str]] = ..., value: _Optional[_Union[LabelValue, _Mapping]] = ..., origin: _Optional[str] = ..., event_id: _Optional[str] = ..., event_time_us: _Optional[int] = ..., known_time_us: _Optional[int] = ...) -> None: ...

class LabelValue(_message.Message):
    __slots__ = ("flag", "whole", "number", "text")
    FLAG_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    flag: bool
    whole: int
    number: float
    text: str
    def __init__(self, flag: _Optional[bool] = ..., whole: _Optional[int] = ..., number: _Optional[float] = ..., text: _Optional[str] = ...) -> None: ...

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

class TaskState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_STATE_UNSPECIFIED: _ClassVar[TaskState]
    TASK_STATE_OPEN: _ClassVar[TaskState]
    TASK_STATE_ACCEPTED: _ClassVar[TaskState]
    TASK_STATE_DISPUTED: _ClassVar[TaskState]
LABEL_STATE_UNSPECIFIED: LabelState
LABEL_STATE_PENDING: LabelState
LABEL_STATE_KNOWN: LabelState
LABEL_STATE_ABSENT: LabelState
TASK_STATE_UNSPECIFIED: TaskState
TASK_STATE_OPEN: TaskState
TASK_STATE_ACCEPTED: TaskState
TASK_STATE_DISPUTED: TaskState

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

class LabelTask(_message.Message):
    __slots__ = ("task_id", "label", "prediction_id", "target", "as_of_us", "version", "score", "rule", "wanted", "state", "value", "answers", "item")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    AS_OF_US_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    label: str
    prediction_id: str
    target: str
    as_of_us: int
    version: int
    score: float
    rule: str
    wanted: int
    state: TaskState
    value: str
    answers: _containers.RepeatedCompositeFieldContainer[LabelAnswer]
    item: LabelItem
    def __init__(self, task_id: _Optional[str] = ..., label: _Optional[str] = ..., prediction_id: _Optional[str] = ..., target: _Optional[str] = ..., as_of_us: _Optional[int] = ..., version: _Optional[int] = ..., score: _Optional[float] = ..., rule: _Optional[str] = ..., wanted: _Optional[int] = ..., state: _Optional[_Union[TaskState, str]] = ..., value: _Optional[str] = ..., answers: _Optional[_Iterable[_Union[LabelAnswer, _Mapping]]] = ..., item: _Optional[_Union[LabelItem, _Mapping]] = ...) -> None: ...

class LabelItem(_message.Message):
    __slots__ = ("model", "served_at_us", "features", "features_left_out", "other_version", "other_score")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SERVED_AT_US_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    FEATURES_LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    OTHER_VERSION_FIELD_NUMBER: _ClassVar[int]
    OTHER_SCORE_FIELD_NUMBER: _ClassVar[int]
    model: str
    served_at_us: int
    features: _containers.RepeatedCompositeFieldContainer[ItemFeature]
    features_left_out: int
    other_version: int
    other_score: float
    def __init__(self, model: _Optional[str] = ..., served_at_us: _Optional[int] = ..., features: _Optional[_Iterable[_Union[ItemFeature, _Mapping]]] = ..., features_left_out: _Optional[int] = ..., other_version: _Optional[int] = ..., other_score: _Optional[float] = ...) -> None: ...

class ItemFeature(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...

class LabelAnswer(_message.Message):
    __slots__ = ("labeller", "choice")
    LABELLER_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    labeller: str
    choice: str
    def __init__(self, labeller: _Optional[str] = ..., choice: _Optional[str] = ...) -> None: ...

class ListTasksRequest(_message.Message):
    __slots__ = ("label", "state", "page_size", "page_token", "with_answers", "with_items")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WITH_ANSWERS_FIELD_NUMBER: _ClassVar[int]
    WITH_ITEMS_FIELD_NUMBER: _ClassVar[int]
    label: str
    state: TaskState
    page_size: int
    page_token: str
    with_answers: bool
    with_items: bool
    def __init__(self, label: _Optional[str] = ..., state: _Optional[_Union[TaskState, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., with_answers: _Optional[bool] = ..., with_items: _Optional[bool] = ...) -> None: ...

class ListTasksResponse(_message.Message):
    __slots__ = ("tasks", "next_page_token")
    TASKS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[LabelTask]
    next_page_token: str
    def __init__(self, tasks: _Optional[_Iterable[_Union[LabelTask, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ClaimTaskRequest(_message.Message):
    __slots__ = ("label", "labeller")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LABELLER_FIELD_NUMBER: _ClassVar[int]
    label: str
    labeller: str
    def __init__(self, label: _Optional[str] = ..., labeller: _Optional[str] = ...) -> None: ...

class ClaimTaskResponse(_message.Message):
    __slots__ = ("task", "choices", "lease_s")
    TASK_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    task: LabelTask
    choices: _containers.RepeatedScalarFieldContainer[str]
    lease_s: int
    def __init__(self, task: _Optional[_Union[LabelTask, _Mapping]] = ..., choices: _Optional[_Iterable[str]] = ..., lease_s: _Optional[int] = ...) -> None: ...

class SubmitLabelRequest(_message.Message):
    __slots__ = ("task_id", "labeller", "choice", "given_elsewhere", "label", "target")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    LABELLER_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    GIVEN_ELSEWHERE_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    labeller: str
    choice: str
    given_elsewhere: bool
    label: str
    target: str
    def __init__(self, task_id: _Optional[str] = ..., labeller: _Optional[str] = ..., choice: _Optional[str] = ..., given_elsewhere: _Optional[bool] = ..., label: _Optional[str] = ..., target: _Optional[str] = ...) -> None: ...

class SubmitLabelResponse(_message.Message):
    __slots__ = ("task", "repeated")
    TASK_FIELD_NUMBER: _ClassVar[int]
    REPEATED_FIELD_NUMBER: _ClassVar[int]
    task: LabelTask
    repeated: bool
    def __init__(self, task: _Optional[_Union[LabelTask, _Mapping]] = ..., repeated: _Optional[bool] = ...) -> None: ...

class SkipTaskRequest(_message.Message):
    __slots__ = ("task_id", "labeller")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    LABELLER_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    labeller: str
    def __init__(self, task_id: _Optional[str] = ..., labeller: _Optional[str] = ...) -> None: ...

class SkipTaskResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetAgreementRequest(_message.Message):
    __slots__ = ("label",)
    LABEL_FIELD_NUMBER: _ClassVar[int]
    label: str
    def __init__(self, label: _Optional[str] = ...) -> None: ...

class GetAgreementResponse(_message.Message):
    __slots__ = ("alpha", "tasks", "open", "accepted", "disputed")
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    DISPUTED_FIELD_NUMBER: _ClassVar[int]
    alpha: float
    tasks: int
    open: int
    accepted: int
    disputed: int
    def __init__(self, alpha: _Optional[float] = ..., tasks: _Optional[int] = ..., open: _Optional[int] = ..., accepted: _Optional[int] = ..., disputed: _Optional[int] = ...) -> None: ...

class ApplyWeakLabelsRequest(_message.Message):
    __slots__ = ("label", "from_us", "until_us", "dry_run")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    FROM_US_FIELD_NUMBER: _ClassVar[int]
    UNTIL_US_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    label: str
    from_us: int
    until_us: int
    dry_run: bool
    def __init__(self, label: _Optional[str] = ..., from_us: _Optional[int] = ..., until_us: _Optional[int] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class ApplyWeakLabelsResponse(_message.Message):
    __slots__ = ("records", "labelled", "functions", "taken_back", "added", "stream")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    LABELLED_FIELD_NUMBER: _ClassVar[int]
    FUNCTIONS_FIELD_NUMBER: _ClassVar[int]
    TAKEN_BACK_FIELD_NUMBER: _ClassVar[int]
    ADDED_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    records: int
    labelled: int
    functions: _containers.RepeatedCompositeFieldContainer[WeakFunctionFigures]
    taken_back: int
    added: int
    stream: str
    def __init__(self, records: _Optional[int] = ..., labelled: _Optional[int] = ..., functions: _Optional[_Iterable[_Union[WeakFunctionFigures, _Mapping]]] = ..., taken_back: _Optional[int] = ..., added: _Optional[int] = ..., stream: _Optional[str] = ...) -> None: ...

class WeakFunctionFigures(_message.Message):
    __slots__ = ("function", "coverage", "overlap", "conflict", "accuracy", "at_chance")
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_FIELD_NUMBER: _ClassVar[int]
    CONFLICT_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    AT_CHANCE_FIELD_NUMBER: _ClassVar[int]
    function: str
    coverage: float
    overlap: float
    conflict: float
    accuracy: float
    at_chance: bool
    def __init__(self, function: _Optional[str] = ..., coverage: _Optional[float] = ..., overlap: _Optional[float] = ..., conflict: _Optional[float] = ..., accuracy: _Optional[float] = ..., at_chance: _Optional[bool] = ...) -> None: ...

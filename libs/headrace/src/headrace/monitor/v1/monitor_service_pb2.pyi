from headrace.monitor.v1 import monitor_events_pb2 as _monitor_events_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetLoopRequest(_message.Message):
    __slots__ = ("monitor",)
    MONITOR_FIELD_NUMBER: _ClassVar[int]
    monitor: str
    def __init__(self, monitor: _Optional[str] = ...) -> None: ...

class GetLoopResponse(_message.Message):
    __slots__ = ("evaluated_until_us", "settled", "rollout_generation_by_endpoint")
    class RolloutGenerationByEndpointEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    EVALUATED_UNTIL_US_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_GENERATION_BY_ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    evaluated_until_us: int
    settled: bool
    rollout_generation_by_endpoint: _containers.ScalarMap[str, int]
    def __init__(self, evaluated_until_us: _Optional[int] = ..., settled: _Optional[bool] = ..., rollout_generation_by_endpoint: _Optional[_Mapping[str, int]] = ...) -> None: ...

class GetQualityRequest(_message.Message):
    __slots__ = ("monitor",)
    MONITOR_FIELD_NUMBER: _ClassVar[int]
    monitor: str
    def __init__(self, monitor: _Optional[str] = ...) -> None: ...

class GetQualityResponse(_message.Message):
    __slots__ = ("slices", "predictions", "labelled")
    SLICES_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    LABELLED_FIELD_NUMBER: _ClassVar[int]
    slices: _containers.RepeatedCompositeFieldContainer[QualitySlice]
    predictions: int
    labelled: int
    def __init__(self, slices: _Optional[_Iterable[_Union[QualitySlice, _Mapping]]] = ..., predictions: _Optional[int] = ..., labelled: _Optional[int] = ...) -> None: ...

class QualitySlice(_message.Message):
    __slots__ = ("endpoint", "month", "version", "labelled", "positives", "auc", "log_loss")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    MONTH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LABELLED_FIELD_NUMBER: _ClassVar[int]
    POSITIVES_FIELD_NUMBER: _ClassVar[int]
    AUC_FIELD_NUMBER: _ClassVar[int]
    LOG_LOSS_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    month: str
    version: int
    labelled: int
    positives: int
    auc: float
    log_loss: float
    def __init__(self, endpoint: _Optional[str] = ..., month: _Optional[str] = ..., version: _Optional[int] = ..., labelled: _Optional[int] = ..., positives: _Optional[int] = ..., auc: _Optional[float] = ..., log_loss: _Optional[float] = ...) -> None: ...

class ListIncidentsRequest(_message.Message):
    __slots__ = ("monitor",)
    MONITOR_FIELD_NUMBER: _ClassVar[int]
    monitor: str
    def __init__(self, monitor: _Optional[str] = ...) -> None: ...

class ListIncidentsResponse(_message.Message):
    __slots__ = ("incidents",)
    INCIDENTS_FIELD_NUMBER: _ClassVar[int]
    incidents: _containers.RepeatedCompositeFieldContainer[_monitor_events_pb2.Incident]
    def __init__(self, incidents: _Optional[_Iterable[_Union[_monitor_events_pb2.Incident, _Mapping]]] = ...) -> None: ...

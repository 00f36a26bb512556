from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CanaryDecision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CANARY_DECISION_UNSPECIFIED: _ClassVar[CanaryDecision]
    CANARY_DECISION_PROMOTE: _ClassVar[CanaryDecision]
    CANARY_DECISION_ROLL_BACK: _ClassVar[CanaryDecision]

class IncidentState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INCIDENT_STATE_UNSPECIFIED: _ClassVar[IncidentState]
    INCIDENT_STATE_TRAINING: _ClassVar[IncidentState]
    INCIDENT_STATE_CANARY: _ClassVar[IncidentState]
    INCIDENT_STATE_RESOLVED: _ClassVar[IncidentState]
CANARY_DECISION_UNSPECIFIED: CanaryDecision
CANARY_DECISION_PROMOTE: CanaryDecision
CANARY_DECISION_ROLL_BACK: CanaryDecision
INCIDENT_STATE_UNSPECIFIED: IncidentState
INCIDENT_STATE_TRAINING: IncidentState
INCIDENT_STATE_CANARY: IncidentState
INCIDENT_STATE_RESOLVED: IncidentState

class VerdictReached(_message.Message):
    __slots__ = ("verdict_id", "monitor", "endpoint", "model", "version", "window_end_us", "drift", "quality", "canary")
    VERDICT_ID_FIELD_NUMBER: _ClassVar[int]
    MONITOR_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WINDOW_END_US_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    verdict_id: str
    monitor: str
    endpoint: str
    model: str
    version: int
    window_end_us: int
    drift: DriftVerdict
    quality: QualityVerdict
    canary: CanaryVerdict
    def __init__(self, verdict_id: _Optional[str] = ..., monitor: _Optional[str] = ..., endpoint: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[int] = ..., window_end_us: _Optional[int] = ..., drift: _Optional[_Union[DriftVerdict, _Mapping]] = ..., quality: _Optional[_Union[QualityVerdict, _Mapping]] = ..., canary: _Optional[_Union[CanaryVerdict, _Mapping]] = ...) -> None: ...

class DriftVerdict(_message.Message):
    __slots__ = ("drifted", "rows", "features", "alarmed", "evidence")
    DRIFTED_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    ALARMED_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    drifted: bool
    rows: int
    features: _containers.RepeatedCompositeFieldContainer[FeatureDrift]
    alarmed: bool
    evidence: str
    def __init__(self, drifted: _Optional[bool] = ..., rows: _Optional[int] = ..., features: _Optional[_Iterable[_Union[FeatureDrift, _Mapping]]] = ..., alarmed: _Optional[bool] = ..., evidence: _Optional[str] = ...) -> None: ...

class FeatureDrift(_message.Message):
    __slots__ = ("feature", "psi", "p_value")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    PSI_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    feature: str
    psi: float
    p_value: float
    def __init__(self, feature: _Optional[str] = ..., psi: _Optional[float] = ..., p_value: _Optional[float] = ...) -> None: ...

class QualityVerdict(_message.Message):
    __slots__ = ("degraded", "labelled", "auc", "auc_reference", "evidence")
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    LABELLED_FIELD_NUMBER: _ClassVar[int]
    AUC_FIELD_NUMBER: _ClassVar[int]
    AUC_REFERENCE_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    degraded: bool
    labelled: int
    auc: float
    auc_reference: float
    evidence: str
    def __init__(self, degraded: _Optional[bool] = ..., labelled: _Optional[int] = ..., auc: _Optional[float] = ..., auc_reference: _Optional[float] = ..., evidence: _Optional[str] = ...) -> None: ...

class CanaryVerdict(_message.Message):
    __slots__ = ("canary_version", "rollout_generation", "decision", "outcomes", "e_better", "e_worse", "evidence")
    CANARY_VERSION_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_GENERATION_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    E_BETTER_FIELD_NUMBER: _ClassVar[int]
    E_WORSE_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    canary_version: int
    rollout_generation: int
    decision: CanaryDecision
    outcomes: int
    e_better: float
    e_worse: float
    evidence: str
    def __init__(self, canary_version: _Optional[int] = ..., rollout_generation: _Optional[int] = ..., decision: _Optional[_Union[CanaryDecision, str]] = ..., outcomes: _Optional[int] = ..., e_better: _Optional[float] = ..., e_worse: _Optional[float] = ..., evidence: _Optional[str] = ...) -> None: ...

class Incident(_message.Message):
    __slots__ = ("incident_id", "monitor", "endpoint", "kind", "state", "window_end_us", "detected_at_us", "resolved_at_us", "action", "run_id", "version", "version_after", "promoted_at_us", "drifted")
    INCIDENT_ID_FIELD_NUMBER: _ClassVar[int]
    MONITOR_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_END_US_FIELD_NUMBER: _ClassVar[int]
    DETECTED_AT_US_FIELD_NUMBER: _ClassVar[int]
    RESOLVED_AT_US_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VERSION_AFTER_FIELD_NUMBER: _ClassVar[int]
    PROMOTED_AT_US_FIELD_NUMBER: _ClassVar[int]
    DRIFTED_FIELD_NUMBER: _ClassVar[int]
    incident_id: str
    monitor: str
    endpoint: str
    kind: str
    state: IncidentState
    window_end_us: int
    detected_at_us: int
    resolved_at_us: int
    action: str
    run_id: str
    version: int
    version_after: int
    promoted_at_us: int
    drifted: _containers.RepeatedCompositeFieldContainer[DriftedFeature]
    def __init__(self, incident_id: _Optional[str] = ..., monitor: _Optional[str] = ..., endpoint: _Optional[str] = ..., kind: _Optional[str] = ..., state: _Optional[_Union[IncidentState, str]] = ..., window_end_us: _Optional[int] = ..., detected_at_us: _Optional[int] = ..., resolved_at_us: _Optional[int] = ..., action: _Optional[str] = ..., run_id: _Optional[str] = ..., version: _Optional[int] = ..., version_after: _Optional[int] = ..., promoted_at_us: _Optional[int] = ..., drifted: _Optional[_Iterable[_Union[DriftedFeature, _Mapping]]] = ...) -> None: ...

class DriftedFeature(_message.Message):
    __slots__ = ("feature", "place", "bins")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    BINS_FIELD_NUMBER: _ClassVar[int]
    feature: str
    place: int
    bins: _containers.RepeatedCompositeFieldContainer[DriftedBin]
    def __init__(self, feature: _Optional[str] = ..., place: _Optional[int] = ..., bins: _Optional[_Iterable[_Union[DriftedBin, _Mapping]]] = ...) -> None: ...

class DriftedBin(_message.Message):
    __slots__ = ("at_least", "below", "absent")
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    BELOW_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    at_least: float
    below: float
    absent: bool
    def __init__(self, at_least: _Optional[float] = ..., below: _Optional[float] = ..., absent: _Optional[bool] = ...) -> None: ...

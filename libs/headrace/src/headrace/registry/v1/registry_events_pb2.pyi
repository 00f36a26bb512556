from headrace.trainer.v1 import trainer_events_pb2 as _trainer_events_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GateState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GATE_STATE_UNSPECIFIED: _ClassVar[GateState]
    GATE_STATE_PASSED: _ClassVar[GateState]
    GATE_STATE_FAILED: _ClassVar[GateState]
GATE_STATE_UNSPECIFIED: GateState
GATE_STATE_PASSED: GateState
GATE_STATE_FAILED: GateState

class Definition(_message.Message):
    __slots__ = ("kind", "name", "application", "version", "spec_json", "digest")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SPEC_JSON_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    kind: str
    name: str
    application: str
    version: int
    spec_json: bytes
    digest: str
    def __init__(self, kind: _Optional[str] = ..., name: _Optional[str] = ..., application: _Optional[str] = ..., version: _Optional[int] = ..., spec_json: _Optional[bytes] = ..., digest: _Optional[str] = ...) -> None: ...

class ModelVersionEvent(_message.Message):
    __slots__ = ("version_registered", "gate_evaluated", "alias_moved")
    VERSION_REGISTERED_FIELD_NUMBER: _ClassVar[int]
    GATE_EVALUATED_FIELD_NUMBER: _ClassVar[int]
    ALIAS_MOVED_FIELD_NUMBER: _ClassVar[int]
    version_registered: VersionRegistered
    gate_evaluated: GateEvaluated
    alias_moved: AliasMoved
    def __init__(self, version_registered: _Optional[_Union[VersionRegistered, _Mapping]] = ..., gate_evaluated: _Optional[_Union[GateEvaluated, _Mapping]] = ..., alias_moved: _Optional[_Union[AliasMoved, _Mapping]] = ...) -> None: ...

class VersionRegistered(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: ModelVersion
    def __init__(self, version: _Optional[_Union[ModelVersion, _Mapping]] = ...) -> None: ...

class GateEvaluated(_message.Message):
    __slots__ = ("model", "version", "digest", "gate")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    digest: str
    gate: Gate
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., digest: _Optional[str] = ..., gate: _Optional[_Union[Gate, _Mapping]] = ...) -> None: ...

class AliasMoved(_message.Message):
    __slots__ = ("alias",)
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    alias: Alias
    def __init__(self, alias: _Optional[_Union[Alias, _Mapping]] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("model", "version", "digest", "run_id", "recipe", "incident_id", "trained", "gate", "registered_at_us")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    INCIDENT_ID_FIELD_NUMBER: _ClassVar[int]
    TRAINED_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_AT_US_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    digest: str
    run_id: str
    recipe: str
    incident_id: str
    trained: _trainer_events_pb2.TrainedModel
    gate: Gate
    registered_at_us: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., digest: _Optional[str] = ..., run_id: _Optional[str] = ..., recipe: _Optional[str] = ..., incident_id: _Optional[str] = ..., trained: _Optional[_Union[_trainer_events_pb2.TrainedModel, _Mapping]] = ..., gate: _Optional[_Union[Gate, _Mapping]] = ..., registered_at_us: _Optional[int] = ...) -> None: ...

class Gate(_message.Message):
    __slots__ = ("state", "evidence")
    STATE_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    state: GateState
    evidence: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, state: _Optional[_Union[GateState, str]] = ..., evidence: _Optional[_Iterable[str]] = ...) -> None: ...

class Alias(_message.Message):
    __slots__ = ("model", "alias", "version", "digest", "generation", "moved_at_us")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    MOVED_AT_US_FIELD_NUMBER: _ClassVar[int]
    model: str
    alias: str
    version: int
    digest: str
    generation: int
    moved_at_us: int
    def __init__(self, model: _Optional[str] = ..., alias: _Optional[str] = ..., version: _Optional[int] = ..., digest: _Optional[str] = ..., generation: _Optional[int] = ..., moved_at_us: _Optional[int] = ...) -> None: ...

class Rollout(_message.Message):
    __slots__ = ("endpoint", "model", "generation", "champion", "canary", "canary_percent", "change", "changed_at_us")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    CHAMPION_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    CANARY_PERCENT_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    CHANGED_AT_US_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    model: str
    generation: int
    champion: ServedVersion
    canary: ServedVersion
    canary_percent: int
    change: str
    changed_at_us: int
    def __init__(self, endpoint: _Optional[str] = ..., model: _Optional[str] = ..., generation: _Optional[int] = ..., champion: _Optional[_Union[ServedVersion, _Mapping]] = ..., canary: _Optional[_Union[ServedVersion, _Mapping]] = ..., canary_percent: _Optional[int] = ..., change: _Optional[str] = ..., changed_at_us: _Optional[int] = ...) -> None: ...

class ServedVersion(_message.Message):
    __slots__ = ("version", "digest", "features")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    version: int
    digest: str
    features: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, version: _Optional[int] = ..., digest: _Optional[str] = ..., features: _Optional[_Iterable[str]] = ...) -> None: ...

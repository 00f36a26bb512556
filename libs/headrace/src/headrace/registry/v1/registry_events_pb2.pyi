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
    GATE_STATE_AWAITS_APPROVAL: _ClassVar[GateState]
    GATE_STATE_AWAITS_SIGNATURE: _ClassVar[GateState]
    GATE_STATE_RETRACTED: _ClassVar[GateState]
GATE_STATE_UNSPECIFIED: GateState
GATE_STATE_PASSED: GateState
GATE_STATE_FAILED: GateState
GATE_STATE_AWAITS_APPROVAL: GateState
GATE_STATE_AWAITS_SIGNATURE: GateState
GATE_STATE_RETRACTED: GateState

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
    __slots__ = ("version_registered", "gate_evaluated", "alias_moved", "version_described", "version_signed")
    VERSION_REGISTERED_FIELD_NUMBER: _ClassVar[int]
    GATE_EVALUATED_FIELD_NUMBER: _ClassVar[int]
    ALIAS_MOVED_FIELD_NUMBER: _ClassVar[int]
    VERSION_DESCRIBED_FIELD_NUMBER: _ClassVar[int]
    VERSION_SIGNED_FIELD_NUMBER: _ClassVar[int]
    version_registered: VersionRegistered
    gate_evaluated: GateEvaluated
    alias_moved: AliasMoved
    version_described: VersionDescribed
    version_signed: VersionSigned
    def __init__(self, version_registered: _Optional[_Union[VersionRegistered, _Mapping]] = ..., gate_evaluated: _Optional[_Union[GateEvaluated, _Mapping]] = ..., alias_moved: _Optional[_Union[AliasMoved, _Mapping]] = ..., version_described: _Optional[_Union[VersionDescribed, _Mapping]] = ..., version_signed: _Optional[_Union[VersionSigned, _Mapping]] = ...) -> None: ...

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

class VersionDescribed(_message.Message):
    __slots__ = ("model", "version", "description", "tags", "card")
    class TagsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    description: int
    tags: _containers.ScalarMap[str, str]
    card: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., description: _Optional[int] = ..., tags: _Optional[_Mapping[str, str]] = ..., card: _Optional[str] = ...) -> None: ...

class VersionSigned(_message.Message):
    __slots__ = ("model", "version", "bundle_digest", "signer", "gate", "signing")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIGNER_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    SIGNING_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    bundle_digest: str
    signer: str
    gate: Gate
    signing: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., bundle_digest: _Optional[str] = ..., signer: _Optional[str] = ..., gate: _Optional[_Union[Gate, _Mapping]] = ..., signing: _Optional[int] = ...) -> None: ...

class AliasMoved(_message.Message):
    __slots__ = ("alias",)
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    alias: Alias
    def __init__(self, alias: _Optional[_Union[Alias, _Mapping]] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("model", "version", "digest", "run_id", "recipe", "incident_id", "trained", "gate", "registered_at_us", "signature", "tags", "card", "bundle_digest", "signer")
    class TagsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    INCIDENT_ID_FIELD_NUMBER: _ClassVar[int]
    TRAINED_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_AT_US_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIGNER_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    digest: str
    run_id: str
    recipe: str
    incident_id: str
    trained: _trainer_events_pb2.TrainedModel
    gate: Gate
    registered_at_us: int
    signature: Signature
    tags: _containers.ScalarMap[str, str]
    card: str
    bundle_digest: str
    signer: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., digest: _Optional[str] = ..., run_id: _Optional[str] = ..., recipe: _Optional[str] = ..., incident_id: _Optional[str] = ..., trained: _Optional[_Union[_trainer_events_pb2.TrainedModel, _Mapping]] = ..., gate: _Optional[_Union[Gate, _Mapping]] = ..., registered_at_us: _Optional[int] = ..., signature: _Optional[_Union[Signature, _Mapping]] = ..., tags: _Optional[_Mapping[str, str]] = ..., card: _Optional[str] = ..., bundle_digest: _Optional[str] = ..., signer: _Optional[str] = ...) -> None: ...

class Signature(_message.Message):
    __slots__ = ("inputs", "outputs")
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    inputs: _containers.RepeatedCompositeFieldContainer[TensorSignature]
    outputs: _containers.RepeatedCompositeFieldContainer[TensorSignature]
    def __init__(self, inputs: _Optional[_Iterable[_Union[TensorSignature, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[TensorSignature, _Mapping]]] = ...) -> None: ...

class TensorSignature(_message.Message):
    __slots__ = ("name", "datatype", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    datatype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., datatype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class Gate(_message.Message):
    __slots__ = ("state", "evidence", "approver")
    STATE_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    APPROVER_FIELD_NUMBER: _ClassVar[int]
    state: GateState
    evidence: _containers.RepeatedScalarFieldContainer[str]
    approver: str
    def __init__(self, state: _Optional[_Union[GateState, str]] = ..., evidence: _Optional[_Iterable[str]] = ..., approver: _Optional[str] = ...) -> None: ...

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
    __slots__ = ("endpoint", "model", "generation", "champion", "canary", "canary_percent", "change", "changed_at_us", "judged", "stopped")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    CHAMPION_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    CANARY_PERCENT_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    CHANGED_AT_US_FIELD_NUMBER: _ClassVar[int]
    JUDGED_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    model: str
    generation: int
    champion: ServedVersion
    canary: ServedVersion
    canary_percent: int
    change: str
    changed_at_us: int
    judged: bool
    stopped: bool
    def __init__(self, endpoint: _Optional[str] = ..., model: _Optional[str] = ..., generation: _Optional[int] = ..., champion: _Optional[_Union[ServedVersion, _Mapping]] = ..., canary: _Optional[_Union[ServedVersion, _Mapping]] = ..., canary_percent: _Optional[int] = ..., change: _Optional[str] = ..., changed_at_us: _Optional[int] = ..., judged: _Optional[bool] = ..., stopped: _Optional[bool] = ...) -> None: ...

class ServedVersion(_message.Message):
    __slots__ = ("version", "digest", "features", "signature")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    version: int
    digest: str
    features: _containers.RepeatedScalarFieldContainer[str]
    signature: Signature
    def __init__(self, version: _Optional[int] = ..., digest: _Optional[str] = ..., features: _Optional[_Iterable[str]] = ..., signature: _Optional[_Union[Signature, _Mapping]] = ...) -> None: ...

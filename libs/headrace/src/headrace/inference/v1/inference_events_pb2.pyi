from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Arm(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ARM_UNSPECIFIED: _ClassVar[Arm]
    ARM_CHAMPION: _ClassVar[Arm]
    ARM_CANARY: _ClassVar[Arm]

class Door(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DOOR_UNSPECIFIED: _ClassVar[Door]
    DOOR_ENTITY_KEYS: _ClassVar[Door]
    DOOR_TENSORS: _ClassVar[Door]
ARM_UNSPECIFIED: Arm
ARM_CHAMPION: Arm
ARM_CANARY: Arm
DOOR_UNSPECIFIED: Door
DOOR_ENTITY_KEYS: Door
DOOR_TENSORS: Door

class PredictionMade(_message.Message):
    __slots__ = ("prediction_id", "endpoint", "model", "version", "digest", "entity_key", "as_of_us", "features", "score", "arm", "shadow", "door", "served_at_us", "rollout_generation")
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ENTITY_KEY_FIELD_NUMBER: _ClassVar[int]
    AS_OF_US_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    DOOR_FIELD_NUMBER: _ClassVar[int]
    SERVED_AT_US_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_GENERATION_FIELD_NUMBER: _ClassVar[int]
    prediction_id: str
    endpoint: str
    model: str
    version: int
    digest: str
    entity_key: str
    as_of_us: int
    features: _containers.RepeatedScalarFieldContainer[float]
    score: float
    arm: Arm
    shadow: ShadowScore
    door: Door
    served_at_us: int
    rollout_generation: int
    def __init__(self, prediction_id: _Optional[str] = ..., endpoint: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[int] = ..., digest: _Optional[str] = ..., entity_key: _Optional[str] = ..., as_of_us: _Optional[int] = ..., features: _Optional[_Iterable[float]] = ..., score: _Optional[float] = ..., arm: _Optional[_Union[Arm, str]] = ..., shadow: _Optional[_Union[ShadowScore, _Mapping]] = ..., door: _Optional[_Union[Door, str]] = ..., served_at_us: _Optional[int] = ..., rollout_generation: _Optional[int] = ...) -> None: ...

class ShadowScore(_message.Message):
    __slots__ = ("version", "score")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    version: int
    score: float
    def __init__(self, version: _Optional[int] = ..., score: _Optional[float] = ...) -> None: ...

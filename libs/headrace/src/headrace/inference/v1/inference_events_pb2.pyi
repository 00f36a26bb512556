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

class PredictionsMade(_message.Message):
    __slots__ = ("endpoint", "model", "version", "digest", "arm", "door", "rollout_generation", "first_prediction_ids", "run_rows", "as_of_us", "served_at_us", "entity_keys", "inputs", "outputs", "shadow", "writer", "rows_answered", "request_partition", "request_offsets", "refused", "claim", "nonfinite", "request_topic_id", "event_times")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    DOOR_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_GENERATION_FIELD_NUMBER: _ClassVar[int]
    FIRST_PREDICTION_IDS_FIELD_NUMBER: _ClassVar[int]
    RUN_ROWS_FIELD_NUMBER: _ClassVar[int]
    AS_OF_US_FIELD_NUMBER: _ClassVar[int]
    SERVED_AT_US_FIELD_NUMBER: _ClassVar[int]
    ENTITY_KEYS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    WRITER_FIELD_NUMBER: _ClassVar[int]
    ROWS_ANSWERED_FIELD_NUMBER: _ClassVar[int]
    REQUEST_PARTITION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_OFFSETS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    NONFINITE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIMES_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    model: str
    version: int
    digest: str
    arm: Arm
    door: Door
    rollout_generation: int
    first_prediction_ids: _containers.RepeatedScalarFieldContainer[str]
    run_rows: _containers.RepeatedScalarFieldContainer[int]
    as_of_us: _containers.RepeatedScalarFieldContainer[int]
    served_at_us: _containers.RepeatedScalarFieldContainer[int]
    entity_keys: _containers.RepeatedScalarFieldContainer[str]
    inputs: _containers.RepeatedCompositeFieldContainer[LoggedTensor]
    outputs: _containers.RepeatedCompositeFieldContainer[LoggedTensor]
    shadow: Shadow
    writer: str
    rows_answered: int
    request_partition: int
    request_offsets: _containers.RepeatedScalarFieldContainer[int]
    refused: _containers.RepeatedCompositeFieldContainer[RefusedRequest]
    claim: Claim
    nonfinite: _containers.RepeatedCompositeFieldContainer[NonfiniteRequest]
    request_topic_id: str
    event_times: LoggedTensor
    def __init__(self, endpoint: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[int] = ..., digest: _Optional[str] = ..., arm: _Optional[_Union[Arm, str]] = ..., door: _Optional[_Union[Door, str]] = ..., rollout_generation: _Optional[int] = ..., first_prediction_ids: _Optional[_Iterable[str]] = ..., run_rows: _Optional[_Iterable[int]] = ..., as_of_us: _Optional[_Iterable[int]] = ..., served_at_us: _Optional[_Iterable[int]] = ..., entity_keys: _Optional[_Iterable[str]] = ..., inputs: _Optional[_Iterable[_Union[LoggedTensor, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[LoggedTensor, _Mapping]]] = ..., shadow: _Optional[_Union[Shadow, _Mapping]] = ..., writer: _Optional[str] = ..., rows_answered: _Optional[int] = ..., request_partition: _Optional[int] = ..., request_offsets: _Optional[_Iterable[int]] = ..., refused: _Optional[_Iterable[_Union[RefusedRequest, _Mapping]]] = ..., claim: _Optional[_Union[Claim, _Mapping]] = ..., nonfinite: _Optional[_Iterable[_Union[NonfiniteRequest, _Mapping]]] = ..., request_topic_id: _Optional[str] = ..., event_times: _Optional[_Union[LoggedTensor, _Mapping]] = ...) -> None: ...

class NonfiniteRequest(_message.Message):
    __slots__ = ("prediction_id", "as_of_us", "shadow")
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    AS_OF_US_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    prediction_id: str
    as_of_us: int
    shadow: bool
    def __init__(self, prediction_id: _Optional[str] = ..., as_of_us: _Optional[int] = ..., shadow: _Optional[bool] = ...) -> None: ...

class Claim(_message.Message):
    __slots__ = ("digest", "size_bytes")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    digest: str
    size_bytes: int
    def __init__(self, digest: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class RefusedRequest(_message.Message):
    __slots__ = ("request_id", "request_offset", "reason", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_OFFSET_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    request_offset: int
    reason: str
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, request_id: _Optional[str] = ..., request_offset: _Optional[int] = ..., reason: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class LoggedTensor(_message.Message):
    __slots__ = ("name", "datatype", "shape", "contents")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    datatype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    contents: bytes
    def __init__(self, name: _Optional[str] = ..., datatype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., contents: _Optional[bytes] = ...) -> None: ...

class Shadow(_message.Message):
    __slots__ = ("version", "outputs")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    version: int
    outputs: _containers.RepeatedCompositeFieldContainer[LoggedTensor]
    def __init__(self, version: _Optional[int] = ..., outputs: _Optional[_Iterable[_Union[LoggedTensor, _Mapping]]] = ...) -> None: ...

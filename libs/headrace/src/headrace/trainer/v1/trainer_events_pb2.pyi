from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TrainingRequest(_message.Message):
    __slots__ = ("request_id", "recipe", "known_until_us", "incident_id")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    KNOWN_UNTIL_US_FIELD_NUMBER: _ClassVar[int]
    INCIDENT_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    recipe: str
    known_until_us: int
    incident_id: str
    def __init__(self, request_id: _Optional[str] = ..., recipe: _Optional[str] = ..., known_until_us: _Optional[int] = ..., incident_id: _Optional[str] = ...) -> None: ...

class TrainingRunEvent(_message.Message):
    __slots__ = ("run_id", "recipe", "incident_id", "started", "completed", "failed")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    INCIDENT_ID_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    recipe: str
    incident_id: str
    started: RunStarted
    completed: RunCompleted
    failed: RunFailed
    def __init__(self, run_id: _Optional[str] = ..., recipe: _Optional[str] = ..., incident_id: _Optional[str] = ..., started: _Optional[_Union[RunStarted, _Mapping]] = ..., completed: _Optional[_Union[RunCompleted, _Mapping]] = ..., failed: _Optional[_Union[RunFailed, _Mapping]] = ...) -> None: ...

class RunStarted(_message.Message):
    __slots__ = ("known_until_us",)
    KNOWN_UNTIL_US_FIELD_NUMBER: _ClassVar[int]
    known_until_us: int
    def __init__(self, known_until_us: _Optional[int] = ...) -> None: ...

class RunCompleted(_message.Message):
    __slots__ = ("trained",)
    TRAINED_FIELD_NUMBER: _ClassVar[int]
    trained: TrainedModel
    def __init__(self, trained: _Optional[_Union[TrainedModel, _Mapping]] = ...) -> None: ...

class RunFailed(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class TrainedModel(_message.Message):
    __slots__ = ("model", "digest", "features", "trained_until_us", "metrics", "champion_version", "reference", "manifest")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class ManifestEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    TRAINED_UNTIL_US_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    CHAMPION_VERSION_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    model: str
    digest: str
    features: _containers.RepeatedScalarFieldContainer[str]
    trained_until_us: int
    metrics: _containers.ScalarMap[str, float]
    champion_version: int
    reference: _containers.RepeatedCompositeFieldContainer[ReferenceHistogram]
    manifest: _containers.ScalarMap[str, str]
    def __init__(self, model: _Optional[str] = ..., digest: _Optional[str] = ..., features: _Optional[_Iterable[str]] = ..., trained_until_us: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., champion_version: _Optional[int] = ..., reference: _Optional[_Iterable[_Union[ReferenceHistogram, _Mapping]]] = ..., manifest: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ReferenceHistogram(_message.Message):
    __slots__ = ("feature", "edges", "counts", "effective_rows")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    EDGES_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_ROWS_FIELD_NUMBER: _ClassVar[int]
    feature: str
    edges: _containers.RepeatedScalarFieldContainer[float]
    counts: _containers.RepeatedScalarFieldContainer[int]
    effective_rows: float
    def __init__(self, feature: _Optional[str] = ..., edges: _Optional[_Iterable[float]] = ..., counts: _Optional[_Iterable[int]] = ..., effective_rows: _Optional[float] = ...) -> None: ...

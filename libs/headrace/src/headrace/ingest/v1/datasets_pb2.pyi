from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DatasetReference(_message.Message):
    __slots__ = ("name", "number", "tag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    number: int
    tag: str
    def __init__(self, name: _Optional[str] = ..., number: _Optional[int] = ..., tag: _Optional[str] = ...) -> None: ...

class CreateDatasetRequest(_message.Message):
    __slots__ = ("request_id", "name", "description", "stream", "view", "filter", "delta_version", "known_until_us")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    DELTA_VERSION_FIELD_NUMBER: _ClassVar[int]
    KNOWN_UNTIL_US_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    name: str
    description: str
    stream: str
    view: str
    filter: str
    delta_version: int
    known_until_us: int
    def __init__(self, request_id: _Optional[str] = ..., name: _Optional[str] = ..., description: _Optional[str] = ..., stream: _Optional[str] = ..., view: _Optional[str] = ..., filter: _Optional[str] = ..., delta_version: _Optional[int] = ..., known_until_us: _Optional[int] = ...) -> None: ...

class CreateDatasetResponse(_message.Message):
    __slots__ = ("dataset",)
    DATASET_FIELD_NUMBER: _ClassVar[int]
    dataset: Dataset
    def __init__(self, dataset: _Optional[_Union[Dataset, _Mapping]] = ...) -> None: ...

class Dataset(_message.Message):
    __slots__ = ("name", "number", "description", "stream", "view", "view_version", "contract_version", "delta_version", "known_until_us", "filter", "rows", "digest", "columns", "created_at_us", "tags", "rows_erased")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    VIEW_VERSION_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_VERSION_FIELD_NUMBER: _ClassVar[int]
    DELTA_VERSION_FIELD_NUMBER: _ClassVar[int]
    KNOWN_UNTIL_US_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_US_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    ROWS_ERASED_FIELD_NUMBER: _ClassVar[int]
    name: str
    number: int
    description: str
    stream: str
    view: str
    view_version: int
    contract_version: int
    delta_version: int
    known_until_us: int
    filter: str
    rows: int
    digest: str
    columns: _containers.RepeatedCompositeFieldContainer[ColumnStatistics]
    created_at_us: int
    tags: _containers.RepeatedScalarFieldContainer[str]
    rows_erased: int
    def __init__(self, name: _Optional[str] = ..., number: _Optional[int] = ..., description: _Optional[str] = ..., stream: _Optional[str] = ..., view: _Optional[str] = ..., view_version: _Optional[int] = ..., contract_version: _Optional[int] = ..., delta_version: _Optional[int] = ..., known_until_us: _Optional[int] = ..., filter: _Optional[str] = ..., rows: _Optional[int] = ..., digest: _Optional[str] = ..., columns: _Optional[_Iterable[_Union[ColumnStatistics, _Mapping]]] = ..., created_at_us: _Optional[int] = ..., tags: _Optional[_Iterable[str]] = ..., rows_erased: _Optional[int] = ...) -> None: ...

class ColumnStatistics(_message.Message):
    __slots__ = ("column", "type", "nulls", "distinct", "min", "max", "mean", "quantiles", "edges", "values", "counts")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    NULLS_FIELD_NUMBER: _ClassVar[int]
    DISTINCT_FIELD_NUMBER: _ClassVar[int]
    MIN_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    QUANTILES_FIELD_NUMBER: _ClassVar[int]
    EDGES_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    column: str
    type: str
    nulls: int
    distinct: int
    min: float
    max: float
    mean: float
    quantiles: _containers.RepeatedScalarFieldContainer[float]
    edges: _containers.RepeatedScalarFieldContainer[float]
    values: _containers.RepeatedScalarFieldContainer[str]
    counts: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, column: _Optional[str] = ..., type: _Optional[str] = ..., nulls: _Optional[int] = ..., distinct: _Optional[int] = ..., min: _Optional[float] = ..., max: _Optional[float] = ..., mean: _Optional[float] = ..., quantiles: _Optional[_Iterable[float]] = ..., edges: _Optional[_Iterable[float]] = ..., values: _Optional[_Iterable[str]] = ..., counts: _Optional[_Iterable[int]] = ...) -> None: ...

class GetDatasetRequest(_message.Message):
    __slots__ = ("dataset",)
    DATASET_FIELD_NUMBER: _ClassVar[int]
    dataset: DatasetReference
    def __init__(self, dataset: _Optional[_Union[DatasetReference, _Mapping]] = ...) -> None: ...

class GetDatasetResponse(_message.Message):
    __slots__ = ("dataset",)
    DATASET_FIELD_NUMBER: _ClassVar[int]
    dataset: Dataset
    def __init__(self, dataset: _Optional[_Union[Dataset, _Mapping]] = ...) -> None: ...

class ListDatasetsRequest(_message.Message):
    __slots__ = ("name", "page_size", "page_token")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    name: str
    page_size: int
    page_token: str
    def __init__(self, name: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListDatasetsResponse(_message.Message):
    __slots__ = ("datasets", "next_page_token")
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    datasets: _containers.RepeatedCompositeFieldContainer[Dataset]
    next_page_token: str
    def __init__(self, datasets: _Optional[_Iterable[_Union[Dataset, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class SetDatasetTagRequest(_message.Message):
    __slots__ = ("request_id", "name", "tag", "number", "generation_expected")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    GENERATION_EXPECTED_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    name: str
    tag: str
    number: int
    generation_expected: int
    def __init__(self, request_id: _Optional[str] = ..., name: _Optional[str] = ..., tag: _Optional[str] = ..., number: _Optional[int] = ..., generation_expected: _Optional[int] = ...) -> None: ...

class SetDatasetTagResponse(_message.Message):
    __slots__ = ("tag",)
    TAG_FIELD_NUMBER: _ClassVar[int]
    tag: DatasetTag
    def __init__(self, tag: _Optional[_Union[DatasetTag, _Mapping]] = ...) -> None: ...

class ListDatasetTagsRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListDatasetTagsResponse(_message.Message):
    __slots__ = ("tags",)
    TAGS_FIELD_NUMBER: _ClassVar[int]
    tags: _containers.RepeatedCompositeFieldContainer[DatasetTag]
    def __init__(self, tags: _Optional[_Iterable[_Union[DatasetTag, _Mapping]]] = ...) -> None: ...

class DatasetTag(_message.Message):
    __slots__ = ("name", "tag", "number", "generation", "moved_at_us")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    MOVED_AT_US_FIELD_NUMBER: _ClassVar[int]
    name: str
    tag: str
    number: int
    generation: int
    moved_at_us: int
    def __init__(self, name: _Optional[str] = ..., tag: _Optional[str] = ..., number: _Optional[int] = ..., generation: _Optional[int] = ..., moved_at_us: _Optional[int] = ...) -> None: ...

class DeleteDatasetRequest(_message.Message):
    __slots__ = ("request_id", "name", "number")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    name: str
    number: int
    def __init__(self, request_id: _Optional[str] = ..., name: _Optional[str] = ..., number: _Optional[int] = ...) -> None: ...

class DeleteDatasetResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DiffDatasetsRequest(_message.Message):
    __slots__ = ("base", "other")
    BASE_FIELD_NUMBER: _ClassVar[int]
    OTHER_FIELD_NUMBER: _ClassVar[int]
    base: DatasetReference
    other: DatasetReference
    def __init__(self, base: _Optional[_Union[DatasetReference, _Mapping]] = ..., other: _Optional[_Union[DatasetReference, _Mapping]] = ...) -> None: ...

class DiffDatasetsResponse(_message.Message):
    __slots__ = ("progress", "diff")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    DIFF_FIELD_NUMBER: _ClassVar[int]
    progress: DiffProgress
    diff: DatasetDiff
    def __init__(self, progress: _Optional[_Union[DiffProgress, _Mapping]] = ..., diff: _Optional[_Union[DatasetDiff, _Mapping]] = ...) -> None: ...

class DiffProgress(_message.Message):
    __slots__ = ("step", "steps_done", "steps")
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_DONE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    step: str
    steps_done: int
    steps: int
    def __init__(self, step: _Optional[str] = ..., steps_done: _Optional[int] = ..., steps: _Optional[int] = ...) -> None: ...

class DatasetDiff(_message.Message):
    __slots__ = ("base", "other", "rows_added", "rows_removed", "rows_changed", "added_ids", "removed_ids", "changed_ids", "columns", "shifts")
    BASE_FIELD_NUMBER: _ClassVar[int]
    OTHER_FIELD_NUMBER: _ClassVar[int]
    ROWS_ADDED_FIELD_NUMBER: _ClassVar[int]
    ROWS_REMOVED_FIELD_NUMBER: _ClassVar[int]
    ROWS_CHANGED_FIELD_NUMBER: _ClassVar[int]
    ADDED_IDS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_IDS_FIELD_NUMBER: _ClassVar[int]
    CHANGED_IDS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    SHIFTS_FIELD_NUMBER: _ClassVar[int]
    base: Dataset
    other: Dataset
    rows_added: int
    rows_removed: int
    rows_changed: int
    added_ids: _containers.RepeatedScalarFieldContainer[str]
    removed_ids: _containers.RepeatedScalarFieldContainer[str]
    changed_ids: _containers.RepeatedScalarFieldContainer[str]
    columns: _containers.RepeatedCompositeFieldContainer[ColumnChange]
    shifts: _containers.RepeatedCompositeFieldContainer[ColumnShift]
    def __init__(self, base: _Optional[_Union[Dataset, _Mapping]] = ..., other: _Optional[_Union[Dataset, _Mapping]] = ..., rows_added: _Optional[int] = ..., rows_removed: _Optional[int] = ..., rows_changed: _Optional[int] = ..., added_ids: _Optional[_Iterable[str]] = ..., removed_ids: _Optional[_Iterable[str]] = ..., changed_ids: _Optional[_Iterable[str]] = ..., columns: _Optional[_Iterable[_Union[ColumnChange, _Mapping]]] = ..., shifts: _Optional[_Iterable[_Union[ColumnShift, _Mapping]]] = ...) -> None: ...

class ColumnChange(_message.Message):
    __slots__ = ("column", "type_before", "type_after")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    TYPE_BEFORE_FIELD_NUMBER: _ClassVar[int]
    TYPE_AFTER_FIELD_NUMBER: _ClassVar[int]
    column: str
    type_before: str
    type_after: str
    def __init__(self, column: _Optional[str] = ..., type_before: _Optional[str] = ..., type_after: _Optional[str] = ...) -> None: ...

class ColumnShift(_message.Message):
    __slots__ = ("column", "psi", "p_value")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    PSI_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    column: str
    psi: float
    p_value: float
    def __init__(self, column: _Optional[str] = ..., psi: _Optional[float] = ..., p_value: _Optional[float] = ...) -> None: ...

class ReadRowsRequest(_message.Message):
    __slots__ = ("dataset", "stream", "columns")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    dataset: DatasetReference
    stream: StreamRows
    columns: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, dataset: _Optional[_Union[DatasetReference, _Mapping]] = ..., stream: _Optional[_Union[StreamRows, _Mapping]] = ..., columns: _Optional[_Iterable[str]] = ...) -> None: ...

class StreamRows(_message.Message):
    __slots__ = ("stream", "delta_version", "known_until_us", "filter")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    DELTA_VERSION_FIELD_NUMBER: _ClassVar[int]
    KNOWN_UNTIL_US_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    stream: str
    delta_version: int
    known_until_us: int
    filter: str
    def __init__(self, stream: _Optional[str] = ..., delta_version: _Optional[int] = ..., known_until_us: _Optional[int] = ..., filter: _Optional[str] = ...) -> None: ...

class ReadRowsResponse(_message.Message):
    __slots__ = ("arrow_ipc",)
    ARROW_IPC_FIELD_NUMBER: _ClassVar[int]
    arrow_ipc: bytes
    def __init__(self, arrow_ipc: _Optional[bytes] = ...) -> None: ...

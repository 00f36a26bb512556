# SPDX-License-Identifier: Apache-2.0
"""An inference request as rows: which door it came by, and whether its inputs fit that door.

A version that takes features has two doors, told apart by the names of the inputs: `features` (a
vector for each row) or the columns of the endpoint (the server reads the features). Both take
`as_of_us`, as input or as parameter. What any other version takes is in `model_tensors`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.application import Endpoint
from headrace.errors import Busy, Invalid
from headrace_inference.domain.serving import NAME_SHOWN_MAX, Floats, Ints
from headrace_kit.clock import CLOCK_SKEW_US

FEATURES, ENTITY_KEY, AS_OF_US = "features", "entity_key", "as_of_us"
SCORE, PREDICTION_ID, EVENT_TIMES = "score", "prediction_id", "event_times_us"
ATTRIBUTIONS = "attributions"
OUTPUTS = (SCORE, FEATURES, PREDICTION_ID, ATTRIBUTIONS)
DATATYPE_BY_COLUMN_TYPE = {"string": "BYTES", "int64": "INT64", "float64": "FP64"}
ENTITY_KEY_CHARACTERS_MAX = 128
REQUEST_ID_CHARACTERS_MAX = 256
# Of a list of names in a refusal, characters.
NAMES_SHOWN_MAX = 256
# The end of year 9999.
TIME_US_MAX = 253_402_300_799_999_999


class Door(Enum):
    """How the rows came."""

    ENTITY_KEYS = "entity_keys"
    TENSORS = "tensors"


@dataclass(slots=True)
class Tensor:
    """A decoded input: an array of its shape, or the elements of a BYTES tensor in a flat list."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: NDArray[Any] | list[bytes]

    def cut(self, first: int, end: int) -> Tensor:
        """These of its rows, not copied if they are an array."""
        width = 1
        if isinstance(self.values, list):
            width = len(self.values) // self.shape[0]
        values = self.values[first * width : end * width]
        return Tensor(self.name, self.datatype, (end - first, *self.shape[1:]), values)


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One ModelInfer call. Without a version the routing decides, without outputs the version.

    `key`: the entity of those of its rows that name none: its parameter `entity_key`, else the key
    of the record that it came as.
    """

    endpoint: str
    version: int | None
    id: str
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...] = ()
    as_of_us: int | None = None
    key: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the endpoint: str, int or float for each row. NaN means absent."""

    name: str
    values: list[str] | list[int] | list[float]


@dataclass(frozen=True, slots=True, eq=False)
class FeatureRows:
    """What was read for the rows of a batch: `values` [rows, features], NaN absent.

    `event_us`, of the same shape: when the newest observation happened that was looked at for each,
    -1 for none; None where nobody knows.
    """

    values: Floats
    event_us: Ints | None = None

    def first(self, features: int) -> FeatureRows:
        """Of so many features alone."""
        event_us = None if self.event_us is None else self.event_us[:, :features]
        return FeatureRows(self.values[:, :features], event_us)

    def event_times(self) -> Tensor | None:
        """As the log keeps them."""
        if self.event_us is None:
            return None
        return Tensor(EVENT_TIMES, "INT64", self.event_us.shape, self.event_us)


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one request: either features [rows, n] or columns.

    `staleness_max_ms`: how far behind the features may be that are read for them; 0 for any.
    """

    door: Door
    entity_keys: list[str]
    as_of_us: NDArray[np.int64]
    features: Floats | None = None
    columns: tuple[Column, ...] = ()
    staleness_max_ms: int = 0

    @property
    def rows(self) -> int:
        return len(self.entity_keys)


def read_batch(request: InferRequest, endpoint: Endpoint, *, now_us: int, rows_max: int) -> Batch:
    """The request's rows, checked but for the width of `features`, which is the version's.

    Raises Invalid TENSOR_NAME, TENSOR_DTYPE, TENSOR_SHAPE, TENSOR_CONTENT, TENSOR_NONFINITE,
    KEY_MISSING, BAD_ID, BAD_TIMESTAMP, BAD_REQUEST, and Busy BATCH_TOO_LARGE.
    """
    rows = check_inputs(request.inputs, endpoint, rows_max=rows_max)
    as_of_us = _as_of_us(request, rows, now_us=now_us)
    if FEATURES in request.inputs:
        features = request.inputs[FEATURES].values
        assert isinstance(features, np.ndarray)  # noqa: S101 (its datatype was checked)
        if np.isinf(features).any():
            raise Invalid("TENSOR_NONFINITE", input=FEATURES)
        return Batch(Door.TENSORS, _optional_keys(request, rows), as_of_us, features=features)
    _check_not_to_come(as_of_us, now_us)
    return entity_batch(request.inputs, endpoint, as_of_us)


def check_inputs(inputs: Mapping[str, Tensor], endpoint: Endpoint, *, rows_max: int) -> int:
    """The number of rows of inputs whose names, types and shapes fit, whatever their values.

    Raises Invalid TENSOR_NAME, TENSOR_DTYPE, TENSOR_SHAPE, and Busy BATCH_TOO_LARGE.
    """
    by_tensors = FEATURES in inputs
    datatypes = (
        {FEATURES: "FP32"}
        if by_tensors
        else {name: DATATYPE_BY_COLUMN_TYPE[kind] for name, kind in endpoint.columns.items()}
    )
    optional = {AS_OF_US: "INT64"} | ({ENTITY_KEY: "BYTES"} if by_tensors else {})
    _check_names(inputs, datatypes, optional)
    return _check_shapes(inputs, datatypes | optional, rows_max=rows_max)


def entity_batch(
    inputs: Mapping[str, Tensor], endpoint: Endpoint, as_of_us: NDArray[np.int64]
) -> Batch:
    """The rows of inputs by entity keys that `check_inputs` let pass.

    Raises Invalid TENSOR_CONTENT, TENSOR_NONFINITE, KEY_MISSING and BAD_ID.
    """
    columns = tuple(_column(inputs[name]) for name in endpoint.columns)
    keys = next(column for column in columns if column.name == endpoint.entity_key)
    return Batch(
        Door.ENTITY_KEYS,
        _required_keys(keys),
        as_of_us,
        columns=columns,
        staleness_max_ms=1_000 * (endpoint.staleness_max_s or 0),
    )


def joined(batches: Sequence[Batch]) -> Batch:
    """The rows of requests to one endpoint by the same door, one after the other."""
    first = batches[0]
    if len(batches) == 1:
        return first
    columns: list[Column] = []
    for place, column in enumerate(first.columns):
        values: Any = list(chain.from_iterable(batch.columns[place].values for batch in batches))
        columns.append(Column(column.name, values))
    return Batch(
        first.door,
        list(chain.from_iterable(batch.entity_keys for batch in batches)),
        np.concatenate([batch.as_of_us for batch in batches]),
        columns=tuple(columns),
        staleness_max_ms=first.staleness_max_ms,
    )


def check_width(features: Floats, *, width: int) -> None:
    """Raises Invalid TENSOR_SHAPE unless there are `width` features a row."""
    if features.shape[1] != width:
        raise Invalid("TENSOR_SHAPE", input=FEATURES, shape=features.shape, expected=[-1, width])


def check_outputs(outputs: Sequence[str], known: Collection[str] = OUTPUTS) -> None:
    """Raises Invalid TENSOR_NAME for an output that is unknown or asked for twice."""
    for name in outputs:
        shown = name[:NAME_SHOWN_MAX]
        if name not in known:
            raise Invalid("TENSOR_NAME", output=shown, problem="unknown", known=listed(known))
        if outputs.count(name) > 1:
            raise Invalid("TENSOR_NAME", output=shown, problem="asked for twice")


def listed(names: Iterable[str]) -> str:
    """For who misspelt one of them."""
    return ", ".join(names)[:NAMES_SHOWN_MAX]


def _check_names(
    inputs: Mapping[str, Tensor], required: Mapping[str, str], optional: Mapping[str, str]
) -> None:
    for name in required:
        if name not in inputs:
            raise Invalid("TENSOR_NAME", input=name, problem="missing")
    for name in inputs:
        if name not in required and name not in optional:
            shown, known = name[:NAME_SHOWN_MAX], listed((*required, *optional))
            raise Invalid("TENSOR_NAME", input=shown, problem="unknown", known=known)


def _check_shapes(
    inputs: Mapping[str, Tensor], datatypes: Mapping[str, str], *, rows_max: int
) -> int:
    """Number of rows, at least one, the same for all inputs."""
    for tensor in inputs.values():
        if tensor.datatype != datatypes[tensor.name]:
            expected = datatypes[tensor.name]
            raise Invalid(
                "TENSOR_DTYPE", input=tensor.name, datatype=tensor.datatype, expected=expected
            )
        rank = 2 if tensor.name == FEATURES else 1
        if len(tensor.shape) != rank or tensor.shape[0] < 1:
            raise Invalid(
                "TENSOR_SHAPE", input=tensor.name, shape=list(tensor.shape), expected_rank=rank
            )
    rows_by_input = {tensor.name: tensor.shape[0] for tensor in inputs.values()}
    rows = max(rows_by_input.values())
    if min(rows_by_input.values()) != rows:
        raise Invalid("TENSOR_SHAPE", rows_by_input=rows_by_input)
    if rows > rows_max:
        raise Busy("BATCH_TOO_LARGE", rows=rows, rows_max=rows_max)
    return rows


def _as_of_us(request: InferRequest, rows: int, *, now_us: int) -> NDArray[np.int64]:
    tensor = request.inputs.get(AS_OF_US)
    if tensor is None:
        one = now_us if request.as_of_us is None else request.as_of_us
        _check_time(one, one)
        return np.full(rows, one, dtype=np.int64)
    if request.as_of_us is not None:
        raise Invalid("BAD_REQUEST", field=AS_OF_US, problem="given as input and as parameter")
    moments = np.asarray(tensor.values)
    _check_time(int(moments.min()), int(moments.max()))
    return moments


def _check_time(first_us: int, last_us: int) -> None:
    if not 0 < first_us <= last_us <= TIME_US_MAX:
        raise Invalid("BAD_TIMESTAMP", field=AS_OF_US)


def _check_not_to_come(as_of_us: NDArray[np.int64], now_us: int) -> None:
    """Here too, for rows of a feature table are not asked of the feature service."""
    if as_of_us.max() > now_us + CLOCK_SKEW_US:
        raise Invalid("BAD_REQUEST", field=AS_OF_US, problem="is still to come")


def _column(tensor: Tensor) -> Column:
    if isinstance(tensor.values, list):
        return Column(tensor.name, _texts(tensor))
    if tensor.datatype == "FP64" and np.isinf(tensor.values).any():
        raise Invalid("TENSOR_NONFINITE", input=tensor.name)
    return Column(tensor.name, tensor.values.tolist())


def _texts(tensor: Tensor) -> list[str]:
    try:
        return [element.decode() for element in tensor.values]
    except UnicodeDecodeError as err:
        raise Invalid("TENSOR_CONTENT", input=tensor.name, problem="not UTF-8") from err


def _optional_keys(request: InferRequest, rows: int) -> list[str]:
    tensor = request.inputs.get(ENTITY_KEY)
    if tensor is None:
        return [request.key] * rows
    keys = _texts(tensor)
    for key in keys:
        check_entity_key(key)
    return [key or request.key for key in keys]


def _required_keys(column: Column) -> list[str]:
    keys = [str(value) for value in column.values]
    for key, value in zip(keys, column.values, strict=True):
        if value != value:
            raise Invalid("TENSOR_NONFINITE", input=column.name)
        if not key:
            raise Invalid("KEY_MISSING", input=column.name)
        check_entity_key(key)
    return keys


def check_request_id(id_: str) -> None:
    """It ends in logs, traces and pages: raises Invalid BAD_ID for what cannot be seen there, a
    control character, or one that turns the direction of others; BAD_REQUEST for too long a one.
    """
    if len(id_) > REQUEST_ID_CHARACTERS_MAX:
        raise Invalid("BAD_REQUEST", field="id", characters_max=REQUEST_ID_CHARACTERS_MAX)
    if not id_.isprintable():
        raise Invalid("BAD_ID", field="id", id=ascii(id_)[:NAME_SHOWN_MAX])


def check_entity_key(key: str) -> None:
    """Raises Invalid BAD_ID for one that is too long, or cannot be seen; empty is none."""
    if len(key) > ENTITY_KEY_CHARACTERS_MAX or not key.isprintable():
        raise Invalid("BAD_ID", entity_key=key[:NAME_SHOWN_MAX])

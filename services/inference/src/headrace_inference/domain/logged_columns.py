# SPDX-License-Identifier: Apache-2.0
"""What the log keeps of many predictions: rows of one version side by side, column by column."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace_inference.domain.prediction import Prediction, row_id
from headrace_inference.domain.request import Tensor
from headrace_kit.key_partitions import key_partitions

Ints = NDArray[np.int64]
# Ids, keys and moments, and what the wire adds.
ROW_OVERHEAD_BYTES = 128
# Before each element of BYTES, its length.
ELEMENT_BYTES = 4
UTF8_BYTES_MAX = 4


@dataclass(frozen=True, slots=True)
class Run:
    """Rows of one request that lie together: their numbers go up by one."""

    first_id: str
    rows: int
    as_of_us: int
    served_at_us: int
    # Its request's place in `bases`.
    request: int


@dataclass(frozen=True, slots=True)
class LoggedRows:
    """Rows of one version, arm and door; `first` is one prediction of them, for what all share.

    Of each row: `request`, a place in `bases`; its `number` in the request; the moments.
    """

    first: Prediction
    bases: Sequence[str]
    request: Ints
    number: Ints
    as_of_us: Ints
    served_at_us: Ints
    entity_keys: Sequence[str]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    shadow_outputs: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.request)

    def bytes_by_row(self) -> Ints:
        """At most what each takes in a record."""
        sizes = np.full(len(self), ROW_OVERHEAD_BYTES, dtype=np.int64)
        if self.entity_keys:
            sizes += UTF8_BYTES_MAX * _lengths(self.entity_keys)
        for tensor in (*self.inputs, *self.outputs, *self.shadow_outputs):
            if isinstance(tensor.values, list):
                elements = _lengths(tensor.values) + ELEMENT_BYTES
                sizes += elements.reshape(len(self), -1).sum(axis=1)
            else:
                sizes += tensor.values.nbytes // len(self)
        return sizes

    def partitions(self, count: int) -> Ints:
        """Of each row: that of its entity key; without one, that of its request, as for a retry."""
        of_request = key_partitions([base.encode() for base in self.bases], count)[self.request]
        if not self.entity_keys:
            return of_request
        of_key = key_partitions([key.encode() for key in self.entity_keys], count)
        named = np.fromiter(map(bool, self.entity_keys), dtype=bool, count=len(self))
        return np.where(named, of_key, of_request)

    def runs(self) -> list[Run]:
        cuts = np.flatnonzero(self._begins())
        columns = (self.request, self.number, self.as_of_us, self.served_at_us)
        rows = np.diff([*cuts, len(self)])
        values = zip(*(column[cuts].tolist() for column in columns), rows.tolist(), strict=True)
        return [
            Run(row_id(self.bases[request], number), rows, as_of_us, served_at_us, request)
            for request, number, as_of_us, served_at_us, rows in values
        ]

    def _begins(self) -> NDArray[np.bool_]:
        begins = np.ones(len(self), dtype=bool)
        begins[1:] = (
            (np.diff(self.request) != 0)
            | (np.diff(self.number) != 1)
            | (np.diff(self.as_of_us) != 0)
        )
        return begins

    def taken(self, rows: Ints) -> LoggedRows:
        if len(rows) == len(self) and bool((rows == np.arange(len(rows))).all()):
            return self  # and so are the tensors of a model that has no rows
        keys = [self.entity_keys[row] for row in rows.tolist()] if self.entity_keys else ()
        return LoggedRows(
            first=self.first,
            bases=self.bases,
            request=self.request[rows],
            number=self.number[rows],
            as_of_us=self.as_of_us[rows],
            served_at_us=self.served_at_us[rows],
            entity_keys=keys,
            inputs=tuple(_taken(tensor, rows) for tensor in self.inputs),
            outputs=tuple(_taken(tensor, rows) for tensor in self.outputs),
            shadow_outputs=tuple(_taken(tensor, rows) for tensor in self.shadow_outputs),
        )

    def without_inputs(self) -> LoggedRows:
        return replace(self, inputs=())


def logged_rows(predictions: Iterable[Prediction]) -> list[LoggedRows]:
    """As few as can be, each in the order in which the predictions came."""
    alike: dict[object, list[Prediction]] = {}
    for prediction in predictions:
        alike.setdefault(_kind(prediction), []).append(prediction)
    return [_joined(same) for same in alike.values()]


def cuts(sizes: Ints, bytes_max: int) -> Iterator[tuple[int, int]]:
    """The places [first, end) of as many as fit together; what is larger than that is alone."""
    ends, first = np.cumsum(sizes), 0
    while first < len(sizes):
        fit_max = int(ends[first] - sizes[first]) + bytes_max
        end = max(first + 1, int(np.searchsorted(ends, fit_max, side="right")))
        yield first, end
        first = end


def prediction_bytes(prediction: Prediction) -> int:
    """What it takes in memory, about."""
    shadow = prediction.shadow.outputs.values() if prediction.shadow else ()
    tensors = chain(prediction.inputs.values(), prediction.outputs.values(), shadow)
    return sum(map(tensor_bytes, tensors)) + ROW_OVERHEAD_BYTES * prediction.rows


def tensor_bytes(tensor: Tensor) -> int:
    if isinstance(tensor.values, list):
        return sum(map(len, tensor.values)) + ELEMENT_BYTES * len(tensor.values)
    return tensor.values.nbytes


def _kind(prediction: Prediction) -> object:
    """What two predictions share when their rows may lie in one record."""
    shadow = prediction.shadow
    groups = (prediction.inputs, prediction.outputs, shadow.outputs if shadow else {})
    tensors = [tensor for group in groups for tensor in group.values()]
    if any(tensor.shape[:1] != (prediction.rows,) for tensor in tensors):
        return id(prediction)
    return (
        prediction.endpoint,
        prediction.served.version,
        prediction.served.digest,
        prediction.arm,
        prediction.door,
        prediction.rollout_generation,
        shadow.version if shadow else 0,
        tuple((tensor.name, tensor.datatype, tensor.shape[1:]) for tensor in tensors),
    )


def _joined(same: Sequence[Prediction]) -> LoggedRows:
    rows = [prediction.rows for prediction in same]
    counts = [count for prediction in same for count in prediction.ids.rows]
    request_rows = np.array(counts, dtype=np.int64)
    served_at_us = np.array([prediction.served_at_us for prediction in same], dtype=np.int64)
    ends = np.cumsum(request_rows)
    shadows = [prediction.shadow.outputs for prediction in same if prediction.shadow]
    return LoggedRows(
        first=same[0],
        bases=list(chain.from_iterable(prediction.ids.bases for prediction in same)),
        request=np.arange(len(request_rows)).repeat(request_rows),
        number=np.arange(int(ends[-1])) - (ends - request_rows).repeat(request_rows),
        as_of_us=np.concatenate([prediction.as_of_us for prediction in same]),
        served_at_us=served_at_us.repeat(rows),
        entity_keys=_keys(same),
        inputs=_stacked([prediction.inputs for prediction in same]),
        outputs=_stacked([prediction.outputs for prediction in same]),
        shadow_outputs=_stacked(shadows) if shadows else (),
    )


def _lengths(values: Sequence[Any]) -> Ints:
    return np.fromiter(map(len, values), dtype=np.int64, count=len(values))


def _keys(same: Sequence[Prediction]) -> Sequence[str]:
    if not any(prediction.entity_keys for prediction in same):
        return ()
    keys = (prediction.entity_keys or ("",) * prediction.rows for prediction in same)
    return list(chain.from_iterable(keys))


def _stacked(groups: Sequence[Any]) -> tuple[Tensor, ...]:
    if len(groups) == 1:
        return tuple(groups[0].values())
    return tuple(_stack([group[name] for group in groups]) for name in groups[0])


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    first = tensors[0]
    values: Any
    if isinstance(first.values, list):
        values = list(chain.from_iterable(tensor.values for tensor in tensors))
    else:
        values = np.concatenate([np.asarray(tensor.values) for tensor in tensors])
    shape = (sum(tensor.shape[0] for tensor in tensors), *first.shape[1:])
    return Tensor(first.name, first.datatype, shape, values)


def _taken(tensor: Tensor, rows: Ints) -> Tensor:
    shape = (len(rows), *tensor.shape[1:])
    if not isinstance(tensor.values, list):
        return Tensor(tensor.name, tensor.datatype, shape, tensor.values[rows])
    width = len(tensor.values) // tensor.shape[0]
    elements = [tensor.values[row * width : (row + 1) * width] for row in rows.tolist()]
    return Tensor(tensor.name, tensor.datatype, shape, list(chain.from_iterable(elements)))

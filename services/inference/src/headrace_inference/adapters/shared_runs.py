# SPDX-License-Identifier: Apache-2.0
"""Requests of known forms run together: their raw contents are joined, the answers cut apart.

Per request there are cuts of bytes and nothing else: arrays, checks, the run, the log and the
metrics are of the whole batch. A batch is of one version (P9). When it fails each request is tried
alone, so that nobody fails for another's values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace.errors import Invalid
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.protobuf_wire import varint
from headrace_inference.adapters.tensor_codec import DATATYPES
from headrace_inference.domain.prediction import (
    Failure,
    Prediction,
    PredictionIds,
    id_base,
    row_id,
)
from headrace_inference.domain.request import PREDICTION_ID, Door, Tensor
from headrace_inference.domain.rollout import Arm, Rollout
from headrace_inference.domain.serving import Choice, Ending, Model, Serving, TensorSpec
from headrace_inference.handlers import Work, answer
from headrace_kit.hot_calls import HotCall

SHAPES_MAX = 64
# Tags of ModelInferResponse: id, and raw_output_contents.
ID_TAG, OUTPUT_RAW_TAG = b"\x1a", b"\x32"
# A prediction id as an element of a BYTES tensor.
ID_PREFIX = b"\x20\0\0\0"
ID_BYTES = len(ID_PREFIX) + 32


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Kind:
    """What may run together: the same inputs but for their rows, to the same versions."""

    serving: Serving
    choice: Choice
    # That answers.
    model: Model
    # Of each input of the model: its name, and the type and the sizes of a row.
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    by_features: bool
    # Whether the first size counts rows, and whether those of several requests may run together.
    by_rows: bool
    shared: bool
    # Of several requests that run together, and of a run that is too small to wait for memory.
    rows_max: int
    small_rows_max: int
    # Whether its sizes but for the rows are fixed, so that what it took when it was tried holds.
    steady: bool
    # Name and version, encoded.
    head: bytes

    @property
    def version(self) -> int:
        return self.choice.answering.served.version

    @property
    def resident(self) -> bool:
        return self.model.resident

    def needed_s(self, rows: int) -> float:
        return self.model.least_s(rows)


# Of an output of a reply: its datatype, its shape and how many bytes its contents are.
Output = tuple[str, tuple[int, ...], int]


class Framed(NamedTuple):
    """Of a reply: its outputs without their contents, encoded, and what stands before each of
    those."""

    outputs: bytes
    tags: tuple[bytes, ...]


@dataclass(slots=True, eq=False)
class ReplyForm:
    """What answers to requests of so many rows share: they hold these names, in order."""

    names: tuple[str, ...]
    rows: int
    _framed: dict[object, Framed] = field(default_factory=dict)

    def framed(self, outputs: Sequence[Output]) -> Framed:
        key = tuple(outputs)
        found = self._framed.get(key)
        if found is None:
            if len(self._framed) >= SHAPES_MAX:
                self._framed.clear()
            found = self._framed[key] = _framed(self.names, outputs)
        return found


@dataclass(slots=True, eq=False)
class Plan:
    """How requests of one form are answered by one kind."""

    # By the arm that the rollout gives a sticky key; both the same where it does not route.
    kind_by_arm: Mapping[Arm, Kind]
    rollout: Rollout | None
    endpoint: str
    rows: int
    priority: int
    timeout_s: float | None
    # Of each input of the kind, its place among the raw contents.
    order: tuple[int, ...]
    reply: ReplyForm

    def kind(self, sticky_key: str) -> Kind:
        arm = self.rollout.arm_of(sticky_key) if self.rollout else Arm.CHAMPION
        return self.kind_by_arm[arm]


@dataclass(slots=True, eq=False)
class Ask:
    """One request on its way through a batch."""

    call: HotCall
    plan: Plan
    kind: Kind
    id: str
    contents: tuple[bytes, ...]
    deadline_s: float
    priority: int
    # Of all its rows; empty where none is named.
    entity_key: str = ""
    # Whether it may come again by its id: the caller gave it, or it has a place in Kafka.
    named: bool = True

    @property
    def rows(self) -> int:
        return self.plan.rows

    @property
    def endpoint(self) -> str:
        return self.plan.endpoint

    @property
    def version(self) -> int:
        return self.kind.version


class Ran(NamedTuple):
    """A batch that was answered, and the replies to the first of its requests."""

    prediction: Prediction
    replies: list[bytes]


def run_together(
    kind: Kind,
    asks: Sequence[Ask],
    *,
    replies: int,
    now_us: Callable[[], int],
    on_failed: Callable[[Failure], None],
    ending: Ending | None = None,
) -> Ran:
    """Replies are made to the first `replies` requests.

    Raises Invalid TENSOR_CONTENT, TENSOR_NONFINITE, and what `answer` raises."""
    begin_ns = perf_counter_ns()
    work = _work(kind, asks, now_us(), ending)
    prediction = answer(work, "", begin_ns=begin_ns, now_us=now_us, on_failed=on_failed)
    return Ran(prediction, _replies(kind, asks[:replies], prediction))


def _work(kind: Kind, asks: Sequence[Ask], now_us: int, ending: Ending | None) -> Work:
    endpoint = kind.serving.rollout.endpoint
    ids = PredictionIds(
        [id_base(ask.id, endpoint) for ask in asks],
        [ask.plan.rows for ask in asks],
        named=any(ask.named for ask in asks),
    )
    as_of_us = np.empty(ids.count, dtype=np.int64)
    as_of_us.fill(now_us)  # np.full takes three times as long for one
    inputs = {
        spec.name: _input(kind, spec, place, asks, ids.count)
        for place, spec in enumerate(kind.inputs)
    }
    return Work(
        serving=kind.serving,
        choice=kind.choice,
        door=Door.TENSORS,
        inputs=inputs,
        shadow_inputs=inputs,
        outputs=kind.outputs,
        entity_keys=_entity_keys(asks),
        as_of_us=as_of_us,
        ids=ids,
        ending=ending,
    )


def _entity_keys(asks: Sequence[Ask]) -> Sequence[str]:
    keys = [ask.entity_key for ask in asks]
    if not any(keys):
        return ()
    return [key for key, ask in zip(keys, asks, strict=True) for _ in range(ask.rows)]


def _input(kind: Kind, spec: TensorSpec, place: int, asks: Sequence[Ask], rows: int) -> Tensor:
    contents = [ask.contents[ask.plan.order[place]] for ask in asks]
    joined = contents[0] if len(contents) == 1 else b"".join(contents)
    values: NDArray[Any] = np.frombuffer(joined, dtype=DATATYPES[spec.datatype].array)
    shape = (rows, *spec.shape[1:]) if kind.by_rows else spec.shape
    if spec.datatype == "BOOL" and values.view(np.uint8).max(initial=0) > 1:
        raise Invalid("TENSOR_CONTENT", input=spec.name, problem="a BOOL byte is 0 or 1")
    if kind.by_features and np.isinf(values).any():
        raise Invalid("TENSOR_NONFINITE", input=spec.name)
    return Tensor(spec.name, spec.datatype, shape, values.reshape(shape))


def _replies(kind: Kind, asks: Sequence[Ask], prediction: Prediction) -> list[bytes]:
    cutters: dict[ReplyForm, Cutter] = {}
    replies, first = [], 0
    for ask, base in zip(asks, prediction.ids.bases, strict=False):
        form = ask.plan.reply
        cutter = cutters.get(form)
        if cutter is None:
            cutter = cutters[form] = Cutter(kind.head, form, prediction, by_rows=kind.by_rows)
        replies.append(cutter.reply(ask.id, base, first))
        first += form.rows
    return replies


class Cutter:
    """Cuts the replies of one form out of a batch's outputs."""

    def __init__(
        self, head: bytes, form: ReplyForm, prediction: Prediction, *, by_rows: bool
    ) -> None:
        self._rows, self._head = form.rows, head
        outputs: list[Output] = []
        # Of each output all contents (none for the ids), and the bytes of a row.
        self._columns: list[tuple[bytes | None, int]] = []
        for name in form.names:
            if name == PREDICTION_ID:
                outputs.append(("BYTES", (form.rows,), form.rows * ID_BYTES))
                self._columns.append((None, 0))
                continue
            tensor = prediction.outputs.get(name) or prediction.inputs[name]
            data = np.asarray(tensor.values).tobytes()
            shape = (form.rows, *tensor.shape[1:]) if by_rows else tensor.shape
            row_bytes = len(data) // prediction.rows
            outputs.append((tensor.datatype, shape, form.rows * row_bytes))
            self._columns.append((data, row_bytes))
        self._outputs, self._tags = form.framed(outputs)

    def reply(self, request_id: str, base: str, first: int) -> bytes:
        """The answer whose rows begin with the `first` of the batch."""
        id_, last = request_id.encode(), first + self._rows
        parts = [self._head, ID_TAG, varint(len(id_)), id_, self._outputs]
        for tag, (data, row_bytes) in zip(self._tags, self._columns, strict=True):
            parts.append(tag)
            if data is None:
                parts += [ID_PREFIX + row_id(base, row).encode() for row in range(self._rows)]
            else:
                parts.append(data[first * row_bytes : last * row_bytes])
        return b"".join(parts)


def _framed(names: Sequence[str], outputs: Sequence[Output]) -> Framed:
    response = oip.ModelInferResponse()
    for name, (datatype, shape, _) in zip(names, outputs, strict=True):
        response.outputs.add(name=name, datatype=datatype, shape=shape)
    tags = tuple(OUTPUT_RAW_TAG + varint(size) for *_, size in outputs)
    return Framed(response.SerializeToString(), tags)

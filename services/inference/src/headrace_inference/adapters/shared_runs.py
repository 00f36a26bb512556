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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.errors import Invalid
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace_inference.adapters.request_forms import varint
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
from headrace_inference.domain.serving import Choice, Ending, Serving, TensorSpec
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
    # Of each input of the model: its name, and the type and the sizes of a row.
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    by_features: bool
    # Whether the first size counts rows, and whether those of several requests may run together.
    by_rows: bool
    shared: bool
    # Whether its sizes but for the rows are fixed, so that what it took when it was tried holds.
    steady: bool
    # Name and version, encoded.
    head: bytes

    @property
    def version(self) -> int:
        return self.choice.answering.served.version

    @property
    def resident(self) -> bool:
        return self.choice.answering.model.resident

    def needed_s(self, rows: int) -> float:
        return self.choice.answering.model.least_s(rows)


@dataclass(slots=True, eq=False)
class ReplyForm:
    """What answers to requests of so many rows share: they hold these names, in order."""

    names: tuple[str, ...]
    rows: int
    _middles: dict[object, bytes] = field(default_factory=dict)

    def middle(self, tensors: Sequence[TensorSpec]) -> bytes:
        """The outputs without their contents, encoded."""
        shapes = tuple(tensor.shape for tensor in tensors)
        found = self._middles.get(shapes)
        if found is None:
            if len(self._middles) >= SHAPES_MAX:
                self._middles.clear()
            response = oip.ModelInferResponse()
            for tensor in tensors:
                response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            found = self._middles[shapes] = response.SerializeToString()
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

    @property
    def rows(self) -> int:
        return self.plan.rows

    @property
    def endpoint(self) -> str:
        return self.plan.endpoint

    @property
    def version(self) -> int:
        return self.kind.version


@dataclass(frozen=True, slots=True)
class Ran:
    """A batch that was answered, and the replies to the first of its requests."""

    prediction: Prediction
    replies: list[bytes]
    # By perf_counter_ns: began, has its inputs, has run; the end is the caller's.
    begin_ns: int
    read_ns: int
    run_ns: int


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
    read_ns = begin_ns + prediction.read_ns
    made = _replies(kind, asks[:replies], prediction)
    return Ran(prediction, made, begin_ns, read_ns, read_ns + prediction.run_ns)


def _work(kind: Kind, asks: Sequence[Ask], now_us: int, ending: Ending | None) -> Work:
    rows = [ask.plan.rows for ask in asks]
    inputs = {
        spec.name: _input(kind, spec, place, asks, sum(rows))
        for place, spec in enumerate(kind.inputs)
    }
    endpoint = kind.serving.rollout.endpoint
    return Work(
        serving=kind.serving,
        choice=kind.choice,
        door=Door.TENSORS,
        inputs=inputs,
        shadow_inputs=inputs,
        outputs=kind.outputs,
        entity_keys=_entity_keys(asks),
        as_of_us=np.full(sum(rows), now_us, dtype=np.int64),
        ids=PredictionIds([id_base(ask.id, endpoint) for ask in asks], rows),
        ending=ending,
    )


def _entity_keys(asks: Sequence[Ask]) -> Sequence[str]:
    if not any(ask.entity_key for ask in asks):
        return ()
    return [ask.entity_key for ask in asks for _ in range(ask.rows)]


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
        specs: list[TensorSpec] = []
        # Of each output its tag, all contents (none for the ids), and the bytes of a row.
        self._columns: list[tuple[bytes, bytes | None, int]] = []
        for name in form.names:
            if name == PREDICTION_ID:
                specs.append(TensorSpec(name, "BYTES", (form.rows,)))
                self._columns.append((_tag(form.rows * ID_BYTES), None, 0))
                continue
            tensor = prediction.outputs.get(name) or prediction.inputs[name]
            data = np.ascontiguousarray(tensor.values).tobytes()
            shape = (form.rows, *tensor.shape[1:]) if by_rows else tensor.shape
            row_bytes = len(data) // prediction.rows
            specs.append(TensorSpec(name, tensor.datatype, shape))
            self._columns.append((_tag(form.rows * row_bytes), data, row_bytes))
        self._middle = form.middle(specs)

    def reply(self, request_id: str, base: str, first: int) -> bytes:
        """The answer whose rows begin with the `first` of the batch."""
        id_, last = request_id.encode(), first + self._rows
        parts = [self._head, ID_TAG, varint(len(id_)), id_, self._middle]
        for tag, data, row_bytes in self._columns:
            parts.append(tag)
            if data is None:
                parts += [ID_PREFIX + row_id(base, row).encode() for row in range(self._rows)]
            else:
                parts.append(data[first * row_bytes : last * row_bytes])
        return b"".join(parts)


def _tag(size: int) -> bytes:
    return OUTPUT_RAW_TAG + varint(size)

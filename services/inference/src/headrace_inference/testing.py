# SPDX-License-Identifier: Apache-2.0
"""Toy models and builders for tests: a model answers with a number of its own, so that a test sees
which version computed a score. Needs the extra `test` (onnx).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from headrace.application import Endpoint, RolloutRule
from headrace.errors import HeadraceError
from headrace_inference.adapters.onnx_providers import providers
from headrace_inference.adapters.onnx_runtime import OnnxModelRuntime
from headrace_inference.adapters.resident_models import ArtifactStore, ResidentModels
from headrace_inference.adapters.run_memory import RUN_MEMORY_BYTES_MAX
from headrace_inference.adapters.tensor_codec import DATATYPES
from headrace_inference.domain.prediction import Prediction, Shadow, prediction_ids
from headrace_inference.domain.request import Batch, Door, FeatureRows, InferRequest, Tensor
from headrace_inference.domain.rollout import Arm, Rollout, ServedVersion

FEATURES = ("weather:wind", "origin:mean", "when:hour")
ROLLOUT_RULE = RolloutRule(canary_percent=20, outcomes_min=1, outcomes_max=2, alpha=0.05)


def a_model(answer: float, *, width: int = len(FEATURES), output: str = "score") -> bytes:
    """ONNX bytes: score = answer + the first feature, which counts as 0 when it is NaN."""
    nodes = [
        helper.make_node("Gather", ["features", "first"], ["x"], axis=1),
        helper.make_node("IsNaN", ["x"], ["absent"]),
        helper.make_node("Where", ["absent", "zero", "x"], ["present"]),
        helper.make_node("Add", ["present", "answer"], [output]),
    ]
    constants = [
        helper.make_tensor("first", TensorProto.INT64, [], [0]),
        helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        helper.make_tensor("answer", TensorProto.FLOAT, [], [answer]),
    ]
    return _onnx(nodes, constants, width=width, output=output)


def a_failing_model(*, width: int = len(FEATURES)) -> bytes:
    """ONNX bytes whose run fails when the first feature is not 0: it is an index past the end."""
    nodes = [
        helper.make_node("Gather", ["features", "first"], ["x"], axis=1),
        helper.make_node("Cast", ["x"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["score"]),
    ]
    constants = [
        helper.make_tensor("first", TensorProto.INT64, [], [0]),
        helper.make_tensor("table", TensorProto.FLOAT, [1], [0.5]),
    ]
    return _onnx(nodes, constants, width=width, output="score")


def a_large_model(answer: float, *, size_bytes: int) -> bytes:
    """ONNX bytes, about so many: score = answer, for a first feature from 0 on, or absent."""
    nodes = [
        helper.make_node("Gather", ["features", "first"], ["x"], axis=1),
        helper.make_node("IsNaN", ["x"], ["absent"]),
        helper.make_node("Where", ["absent", "zero", "x"], ["present"]),
        helper.make_node("Cast", ["present"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["score"]),
    ]
    table = np.full(size_bytes // 4, answer, np.float32)
    constants = [
        helper.make_tensor("first", TensorProto.INT64, [], [0]),
        helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        helper.make_tensor("table", TensorProto.FLOAT, table.shape, table.tobytes(), raw=True),
    ]
    return _onnx(nodes, constants, width=len(FEATURES), output="score")


def an_adder(names: Sequence[str] = ("INPUT0", "INPUT1")) -> bytes:
    """ONNX bytes of Triton's model `simple`: sum and difference of two INT32 [rows, 16].

    `names`: the order in which the file has its inputs.
    """
    shape = ["rows", 16]
    nodes = [
        helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
        helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
    ]
    inputs = dict.fromkeys(names, (TensorProto.INT32, shape))
    outputs = {"OUTPUT0": (TensorProto.INT32, shape), "OUTPUT1": (TensorProto.INT32, shape)}
    return onnx_bytes(nodes, [], inputs=inputs, outputs=outputs)


def an_echo(element_type: int, shape: Sequence[int | str] = ("rows", 2)) -> bytes:
    """ONNX bytes: y = x, of the element type of TensorProto."""
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    sizes = list(shape)
    return onnx_bytes(
        nodes, [], inputs={"x": (element_type, sizes)}, outputs={"y": (element_type, sizes)}
    )


def a_spreading_model(numbers: int, *, told: bool = True) -> bytes:
    """ONNX bytes of a hundred bytes: each row is written out so often, and answered so or, not
    `told`, as the largest of it.
    """
    last = ("Identity", ["spread"]) if told else ("ReduceMax", ["spread", "axis"])
    return onnx_bytes(
        [helper.make_node("Expand", ["x", "sizes"], ["spread"]), helper.make_node(*last, ["y"])],
        [
            helper.make_tensor("sizes", TensorProto.INT64, [2], [1, numbers]),
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        ],
        inputs={"x": (TensorProto.FLOAT, ["rows", 1])},
        outputs={"y": (TensorProto.FLOAT, ["rows", numbers if told else 1])},
    )


def a_running_sum() -> bytes:
    """ONNX bytes: y[i] = x[0] + ... + x[i]: what is no row of its own has an open first size."""
    nodes = [helper.make_node("CumSum", ["x", "axis"], ["y"])]
    axis = [helper.make_tensor("axis", TensorProto.INT64, [], [0])]
    tensor = (TensorProto.FLOAT, ["steps", 2])
    return onnx_bytes(nodes, axis, inputs={"x": tensor}, outputs={"y": tensor})


def an_endless_model() -> bytes:
    """ONNX bytes: y = x and 1, added up for longer than anybody waits."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["goes_on"], ["still"]),
            helper.make_node("Add", ["sum", "one"], ["more"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, None),
        ],
    )
    constants = [
        helper.make_tensor("turns", TensorProto.INT64, [], [2**60]),
        helper.make_tensor("true", TensorProto.BOOL, [], [True]),
        helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
    ]
    tensor = (TensorProto.FLOAT, ["rows", 2])
    loop = helper.make_node("Loop", ["turns", "true", "x"], ["y"], body=body)
    return onnx_bytes([loop], constants, inputs={"x": tensor}, outputs={"y": tensor})


def a_served_version(
    version: int = 1, *, onnx: bytes | None = None, features: Sequence[str] = FEATURES
) -> ServedVersion:
    data = a_model(float(version), width=len(features)) if onnx is None else onnx
    return ServedVersion(version, sha256(data).hexdigest(), tuple(features))


def a_rollout(
    champion: int = 1,
    *,
    canary: int | None = None,
    percent: int = 20,
    generation: int = 1,
    endpoint: str = "delay",
    stopped: bool = False,
) -> Rollout:
    return Rollout(
        endpoint=endpoint,
        model="delay-model",
        generation=generation,
        champion=a_served_version(champion),
        canary=None if canary is None else a_served_version(canary),
        canary_percent=0 if canary is None else percent,
        stopped=stopped,
    )


def an_endpoint(name: str = "delay", **more: Any) -> Endpoint:
    return Endpoint(
        name=name,
        description="Will it be late?",
        model="delay-model",
        entity_key="flight_id",
        columns={"flight_id": "string", "distance": "float64", "minutes": "int64"},
        rollout=ROLLOUT_RULE,
        **more,
    )


def a_tensor(name: str, datatype: str, values: object) -> Tensor:
    """BYTES from a list of texts or bytes, anything else from what numpy takes."""
    if datatype == "BYTES":
        assert isinstance(values, list)  # noqa: S101 (a mistake in a test)
        elements = [v if isinstance(v, bytes) else str(v).encode() for v in values]
        return Tensor(name, datatype, (len(elements),), elements)
    array = np.asarray(values, dtype=DATATYPES[datatype].array)
    return Tensor(name, datatype, array.shape, array)


def a_request(*inputs: Tensor, id: str = "r-1", version: int | None = None) -> InferRequest:
    """By tensors, one row of zeros, unless inputs are given."""
    given = inputs or (a_tensor("features", "FP32", [[0.0] * len(FEATURES)]),)
    return InferRequest("delay", version, id, {tensor.name: tensor for tensor in given})


def a_prediction(
    *keys: str,
    id: str = "r",
    endpoint: str = "delay",
    version: int = 1,
    scores: Sequence[float] | None = None,
    shadow: Shadow | None = None,
    features: int = len(FEATURES),
) -> Prediction:
    """A row for each key, by tensors; the scores count up."""
    rows = len(keys)
    return Prediction(
        request_id=id,
        endpoint=endpoint,
        model="delay-model",
        served=a_served_version(version),
        arm=Arm.CHAMPION,
        rollout_generation=1,
        door=Door.TENSORS,
        entity_keys=keys,
        as_of_us=np.arange(rows, dtype=np.int64),
        inputs={"features": a_tensor("features", "FP32", np.ones((rows, features)))},
        outputs={"score": a_tensor("score", "FP32", range(rows) if scores is None else scores)},
        shadow=shadow,
        served_at_us=7,
        ids=prediction_ids(id, endpoint, rows),
    )


def a_keys_request(*flight_ids: str, id: str = "r-1") -> InferRequest:
    rows = len(flight_ids)
    return a_request(
        a_tensor("flight_id", "BYTES", list(flight_ids)),
        a_tensor("distance", "FP64", [100.0] * rows),
        a_tensor("minutes", "INT64", [5] * rows),
        id=id,
    )


@dataclass
class MemoryFeatureReader:
    """FeatureReader that knows one value by feature, the same for all entities."""

    value_by_feature: dict[str, float] = field(default_factory=dict)
    asked: list[list[str]] = field(default_factory=list)
    read_for: list[str] = field(default_factory=list)
    event_us_by_feature: dict[str, int] = field(default_factory=dict)
    staleness_max_ms: list[int] = field(default_factory=list)

    def read(
        self,
        features: Sequence[str],
        batch: Batch,
        *,
        prediction_ids: Sequence[str],
        timeout_s: float,
    ) -> FeatureRows:
        self.asked.append(list(features))
        self.staleness_max_ms.append(batch.staleness_max_ms)
        self.read_for += prediction_ids
        row = [self.value_by_feature.get(name, 0.0) for name in features]
        event_us = [self.event_us_by_feature.get(name, -1) for name in features]
        return FeatureRows(
            np.tile(np.array(row, dtype=np.float32), (batch.rows, 1)),
            np.tile(np.array(event_us, dtype=np.int64), (batch.rows, 1)),
        )


@dataclass
class MemoryPredictionLog:
    """PredictionLog that keeps what it is given."""

    predictions: list[Prediction] = field(default_factory=list)
    traces: list[str] = field(default_factory=list)

    def append(self, prediction: Prediction, *, traces: Sequence[str] = ()) -> None:
        self.predictions.append(prediction)
        self.traces.extend(traces)


@dataclass
class MemoryArtifactStore:
    """ArtifactStore that holds what a test uploads, or refuses to give it."""

    data_by_digest: dict[str, bytes] = field(default_factory=dict)
    refuses: HeadraceError | None = None

    def upload(self, data: bytes) -> str:
        digest = sha256(data).hexdigest()
        self.data_by_digest[digest] = data
        return digest

    def fetch(self, digest: str) -> None:
        """It is near."""

    def get(self, digest: str) -> bytes:
        if self.refuses is not None:
            raise self.refuses
        return self.data_by_digest[digest]


def models_of(
    artifacts: ArtifactStore, *, run_bytes_max: int = RUN_MEMORY_BYTES_MAX
) -> ResidentModels:
    """All of them in memory, one thread for each."""
    runtime = OnnxModelRuntime(threads=1, providers=providers("cpu"), run_bytes_max=run_bytes_max)
    return ResidentModels(artifacts, runtime, memory_bytes_max=2**30, waiters_max=2)


def _onnx(nodes: list[object], constants: list[object], *, width: int, output: str) -> bytes:
    inputs = {"features": (TensorProto.FLOAT, ["rows", width])}
    outputs = {output: (TensorProto.FLOAT, ["rows"])}
    return onnx_bytes(nodes, constants, inputs=inputs, outputs=outputs)


def onnx_bytes(
    nodes: list[object],
    constants: list[object],
    *,
    inputs: Mapping[str, tuple[int, list[Any]]],
    outputs: Mapping[str, tuple[int, list[Any]]],
) -> bytes:
    """A model of these nodes; tensors by name are (element type, shape)."""
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info(name, *tensor) for name, tensor in inputs.items()],
        [helper.make_tensor_value_info(name, *tensor) for name, tensor in outputs.items()],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    data: bytes = model.SerializeToString()
    return data

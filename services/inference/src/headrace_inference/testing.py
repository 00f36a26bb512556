# SPDX-License-Identifier: Apache-2.0
"""Toy models and builders for tests: a model answers with a number of its own, so that a test sees
which version computed a score. Needs the extra `test` (onnx).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
from onnx import TensorProto, helper

from headrace.application import Endpoint, RolloutRule
from headrace_inference.domain.request import Batch, InferRequest, Tensor
from headrace_inference.domain.rollout import Rollout, ServedVersion
from headrace_inference.domain.serving import Floats

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
) -> Rollout:
    return Rollout(
        endpoint=endpoint,
        model="delay-model",
        generation=generation,
        champion=a_served_version(champion),
        canary=None if canary is None else a_served_version(canary),
        canary_percent=0 if canary is None else percent,
    )


def an_endpoint(name: str = "delay") -> Endpoint:
    return Endpoint(
        name=name,
        description="Will it be late?",
        model="delay-model",
        entity_key="flight_id",
        columns={"flight_id": "string", "distance": "float64", "minutes": "int64"},
        rollout=ROLLOUT_RULE,
    )


def a_tensor(name: str, datatype: str, values: object) -> Tensor:
    """BYTES from a list of texts or bytes, anything else from what numpy takes."""
    if datatype == "BYTES":
        assert isinstance(values, list)  # noqa: S101 (a mistake in a test)
        elements = [v if isinstance(v, bytes) else str(v).encode() for v in values]
        return Tensor(name, datatype, (len(elements),), elements)
    dtype = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64}[datatype]
    array = np.asarray(values, dtype=dtype)
    return Tensor(name, datatype, array.shape, array)


def a_request(*inputs: Tensor, id: str = "r-1", version: int | None = None) -> InferRequest:
    """By tensors, one row of zeros, unless inputs are given."""
    given = inputs or (a_tensor("features", "FP32", [[0.0] * len(FEATURES)]),)
    return InferRequest("delay", version, id, {tensor.name: tensor for tensor in given})


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

    def read(
        self,
        features: Sequence[str],
        batch: Batch,
        *,
        prediction_ids: Sequence[str],
        timeout_s: float,
    ) -> Floats:
        self.asked.append(list(features))
        self.read_for += prediction_ids
        row = [self.value_by_feature.get(name, 0.0) for name in features]
        return np.tile(np.array(row, dtype=np.float32), (batch.rows, 1))


@dataclass
class MemoryArtifactStore:
    """ArtifactStore that holds what a test uploads."""

    data_by_digest: dict[str, bytes] = field(default_factory=dict)

    def upload(self, data: bytes) -> str:
        digest = sha256(data).hexdigest()
        self.data_by_digest[digest] = data
        return digest

    def get(self, digest: str) -> bytes:
        return self.data_by_digest[digest]


def _onnx(nodes: list[object], constants: list[object], *, width: int, output: str) -> bytes:
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", width])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["rows"])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    data: bytes = model.SerializeToString()
    return data

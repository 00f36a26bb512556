# SPDX-License-Identifier: Apache-2.0
"""Small ONNX models for tests of graphs, and what each of them computes in numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from headrace.graph_definition import TensorType
from headrace.graph_signature import Signature

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class ToyModel:
    """A model's bytes, its tensors, and its outputs in numpy by those of its inputs."""

    onnx: bytes
    signature: Signature
    answer: Callable[[Arrays], dict[str, np.ndarray]]


def a_linear_model(
    width: int, *, opset: int = 17, ir_version: int = 8, features: tuple[str, ...] = ()
) -> ToyModel:
    """score = sigmoid(features @ w), w = 0.1, 0.2, ..."""
    weights = np.arange(1, width + 1, dtype=np.float32)[:, None] / 10
    nodes = [
        helper.make_node("MatMul", ["features", "w"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["chance"]),
        helper.make_node("Squeeze", ["chance", "axis"], ["score"]),
    ]
    axis = numpy_helper.from_array(np.array([1], np.int64), "axis")
    model = _model(
        nodes,
        {"features": ["rows", width]},
        {"score": ["rows"]},
        [numpy_helper.from_array(weights, "w"), axis],
        opset=opset,
        ir_version=ir_version,
    )

    def answer(given: Arrays) -> dict[str, np.ndarray]:
        logit = given["features"].astype(np.float32) @ weights
        return {"score": (1 / (1 + np.exp(-logit)))[:, 0].astype(np.float32)}

    taken = {"features": TensorType("float32", width)}
    return ToyModel(model, Signature(taken, {"score": TensorType("float32")}, features), answer)


def a_two_headed_model() -> ToyModel:
    """chances = softmax(x), label = its place: [rows, 3] float32 -> [rows, 3], [rows] int64."""
    nodes = [
        helper.make_node("Softmax", ["x"], ["chances"], axis=1),
        helper.make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=0),
    ]
    label = helper.make_tensor_value_info("label", onnx.TensorProto.INT64, ["rows"])
    model = _model(nodes, {"x": ["rows", 3]}, {"chances": ["rows", 3]}, [], more=[label])

    def answer(given: Arrays) -> dict[str, np.ndarray]:
        powers = np.exp(given["x"] - given["x"].max(axis=1, keepdims=True))
        chances = powers / powers.sum(axis=1, keepdims=True)
        return {"chances": chances, "label": given["x"].argmax(axis=1)}

    outputs = {"chances": TensorType("float32", 3), "label": TensorType("int64")}
    return ToyModel(model, Signature({"x": TensorType("float32", 3)}, outputs), answer)


def a_model_with_an_inner_graph() -> ToyModel:
    """y = x + w inside an If, whose branches read a weight of the graph around them."""
    out = helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, None)
    branches = {
        side: helper.make_graph([helper.make_node("Add", ["x", "w"], ["inner"])], side, [], [out])
        for side in ("then_branch", "else_branch")
    }
    weights = [
        numpy_helper.from_array(np.array(True), "yes"),  # noqa: FBT003
        numpy_helper.from_array(np.array([5.0], np.float32), "w"),
    ]
    node = helper.make_node("If", ["yes"], ["y"], **branches)
    model = _model([node], {"x": ["rows"]}, {"y": ["rows"]}, weights)
    tensor = TensorType("float32")
    signature = Signature({"x": tensor}, {"y": tensor})
    return ToyModel(model, signature, lambda given: {"y": given["x"] + np.float32(5)})


def a_model_that_mixes_rows() -> ToyModel:
    """y = x - the mean of all rows."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    model = _model(nodes, {"x": ["rows"]}, {"y": ["rows"]}, [])
    tensor = TensorType("float32")
    signature = Signature({"x": tensor}, {"y": tensor})
    return ToyModel(model, signature, lambda given: {"y": given["x"] - given["x"].mean()})


def a_model_that_no_converter_takes() -> ToyModel:
    """y = x + x in the operators of 2017, with a broadcast that newer ones do without."""
    node = helper.make_node("Add", ["x", "x"], ["y"], broadcast=1, axis=0)
    model = _model([node], {"x": ["rows"]}, {"y": ["rows"]}, [], opset=6)
    tensor = TensorType("float32")
    signature = Signature({"x": tensor}, {"y": tensor})
    return ToyModel(model, signature, lambda given: {"y": given["x"] * 2})


def a_multiplying_model(by: float, *, opset: int = 17) -> ToyModel:
    """y = x times a weight."""
    weight = numpy_helper.from_array(np.array([by], np.float32), "w")
    node = helper.make_node("Mul", ["x", "w"], ["y"])
    model = _model([node], {"x": ["rows"]}, {"y": ["rows"]}, [weight], opset=opset)
    tensor = TensorType("float32")
    signature = Signature({"x": tensor}, {"y": tensor})
    return ToyModel(model, signature, lambda given: {"y": given["x"] * np.float32(by)})


def a_scaling_model(ml_version: int) -> ToyModel:
    """y = x twice, by an operator of ai.onnx.ml of this version."""
    node = helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[0.0], scale=[2.0])
    model = _model([node], {"x": ["rows", 1]}, {"y": ["rows", 1]}, [], ml_version=ml_version)
    tensor = TensorType("float32", 1)
    signature = Signature({"x": tensor}, {"y": tensor})
    return ToyModel(model, signature, lambda given: {"y": given["x"] * 2})


def _model(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, list[Any]],
    outputs: Mapping[str, list[Any]],
    weights: list[onnx.TensorProto],
    *,
    more: list[onnx.ValueInfoProto] | None = None,
    opset: int = 17,
    ir_version: int = 8,
    ml_version: int = 0,
) -> bytes:
    taken, given = (
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
         for name, shape in side.items()]
        for side in (inputs, outputs)
    )  # fmt: skip
    graph = helper.make_graph(nodes, "toy", taken, [*given, *(more or [])], weights)
    opsets = [helper.make_opsetid("", opset)]
    if ml_version:
        opsets.append(helper.make_opsetid("ai.onnx.ml", ml_version))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data

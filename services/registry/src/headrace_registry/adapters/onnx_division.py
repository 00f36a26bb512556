# SPDX-License-Identifier: Apache-2.0
"""Whole numbers are divided by constants alone, and by none with 0 or -1 in it.

The least int64 (or int32) by -1 is no int64: the processor ends the process that asks for it, and
with it all endpoints of inference. No run at the door would find what a caller sends later. Div
alone: Mod answers 0 there, in ONNX Runtime, and by 0 it is an error of the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from headrace_registry.adapters.onnx_rules import nodes_of, refused, subgraphs_of

DIVISION = "Div"
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
WHOLE_TYPES: dict[int, type] = {
    TensorProto.INT8: np.int8, TensorProto.INT16: np.int16, TensorProto.INT32: np.int32,
    TensorProto.INT64: np.int64, TensorProto.UINT8: np.uint8, TensorProto.UINT16: np.uint16,
    TensorProto.UINT32: np.uint32, TensorProto.UINT64: np.uint64,
}  # fmt: skip
# They hand on the numbers of their first input, in another shape or (Cast) type.
HANDING_ON = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
ML_DOMAIN = "ai.onnx.ml"
PROBLEM_LENGTH_MAX = 200

# By name: a weight, a Constant, or a node that hands on another of them.
Constants = Mapping[str, TensorProto | NodeProto]


def check_divisions(model: onnx.ModelProto) -> None:
    """Raises Invalid FORMAT."""
    if any(node.op_type == DIVISION for node in nodes_of(model.graph)):
        weights = {each.name: each for each in model.graph.initializer}
        _walk(_with_types(model), {}, weights)


def _with_types(model: onnx.ModelProto) -> onnx.GraphProto:
    """A copy in which types are inferred; without its weights, for those may be large."""
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    of, graph = model.graph, bare.graph
    graph.name = of.name
    graph.node.extend(of.node)
    graph.output.extend(of.output)
    graph.value_info.extend(of.value_info)
    graph.value_info.extend(_floats_of_ml(of))
    weights = {each.name: each for each in of.initializer}
    graph.input.extend(each for each in of.input if each.name not in weights)
    graph.input.extend(
        onnx.helper.make_tensor_value_info(name, each.data_type, each.dims)
        for name, each in weights.items()
    )
    try:
        return onnx.shape_inference.infer_shapes(bare).graph
    except onnx.shape_inference.InferenceError as err:
        raise refused(" ".join(str(err).split())[:PROBLEM_LENGTH_MAX]) from err


def _floats_of_ml(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Inference of types passes over operators of ai.onnx.ml that give floats whatever they get."""
    told = {each.name for each in (*graph.value_info, *graph.output)}
    found = []
    for node in graph.node:
        if node.domain != ML_DOMAIN or not onnx.defs.has(node.op_type, ML_DOMAIN):
            continue
        for name, output in zip(
            node.output, onnx.defs.get_schema(node.op_type, domain=ML_DOMAIN).outputs, strict=False
        ):
            if output.types == {"tensor(float)"} and name not in told:
                found.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return found


def _walk(graph: onnx.GraphProto, types_around: Mapping[str, int], given: Constants) -> None:
    own = {each.name for each in graph.input} | {
        name for node in graph.node for name in node.output
    }
    types = {name: found for name, found in types_around.items() if name not in own}
    types |= _types(graph)
    constants = dict(given)
    for node in graph.node:
        if node.op_type == DIVISION:
            _check_division(node, types, constants)
        for inner in subgraphs_of(node):
            _walk(inner, types, _constants_inside(inner, constants))
        if _is_constant(node, constants):
            constants.setdefault(node.output[0], node)


def _types(graph: onnx.GraphProto) -> dict[str, int]:
    told = {
        each.name: each.type.tensor_type.elem_type
        for each in (*graph.input, *graph.value_info, *graph.output)
    }
    return told | {each.name: each.data_type for each in graph.initializer}


def _constants_inside(graph: onnx.GraphProto, around: Constants) -> Constants:
    """An input hides what has its name outside, and the weight that it may have stands for none."""
    inputs = {each.name for each in graph.input}
    weights = {each.name: each for each in graph.initializer}
    return {name: each for name, each in {**around, **weights}.items() if name not in inputs}


def _is_constant(node: NodeProto, constants: Constants) -> bool:
    hands_on = node.op_type in HANDING_ON and node.input and node.input[0] in constants
    return bool(node.output) and (node.op_type == "Constant" or bool(hands_on))


def _check_division(node: NodeProto, types: Mapping[str, int], constants: Constants) -> None:
    """All that a division takes and gives is of one type; the runtime refuses anything else."""
    if any(types.get(name) in FLOATS for name in (*node.input, *node.output)):
        return
    divisor = _numbers(node.input[1], constants) if len(node.input) > 1 else None
    if divisor is None:
        raise refused(
            f"{DIVISION} of whole numbers, or of a type that is not told: "
            "only floats can be divided by what is no constant"
        )
    if np.isin(divisor, (0, -1)).any():
        raise refused(f"{DIVISION} of whole numbers by a constant that holds 0 or -1")


def _numbers(name: str, constants: Constants) -> NDArray[Any] | None:
    """None for what is not known: no constant, or one that was never a whole number."""
    types: list[int] = []
    found = constants.get(name)
    while isinstance(found, NodeProto) and found.op_type != "Constant":
        types += [each.i for each in found.attribute if each.name == "to"]
        found = constants.get(found.input[0])
    tensor = _constant(found) if isinstance(found, NodeProto) else found
    if tensor is None or not {tensor.data_type, *types} <= WHOLE_TYPES.keys():
        return None
    numbers = onnx.numpy_helper.to_array(tensor)
    for to in reversed(types):
        numbers = numbers.astype(WHOLE_TYPES[to])
    return numbers


def _constant(node: NodeProto) -> TensorProto | None:
    for each in node.attribute:
        if each.name == "value":
            return each.t
        if each.name in ("value_int", "value_ints"):
            numbers = [each.i] if each.name == "value_int" else list(each.ints)
            return onnx.numpy_helper.from_array(np.array(numbers, np.int64))
    return None

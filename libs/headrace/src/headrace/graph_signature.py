# SPDX-License-Identifier: Apache-2.0
"""What a model takes and gives, as a graph sees it: of each row a value or a vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace.graph_definition import Element, Graph, TensorType, refuse

# What a version that a recipe trained takes and gives.
FEATURES, SCORE = "features", "score"
ANY_SIZE = -1
# By the datatype of the Open Inference Protocol.
ELEMENT_BY_DATATYPE: dict[str, Element] = {
    "BOOL": "bool",
    "INT32": "int32",
    "INT64": "int64",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "string",
}


@dataclass(frozen=True, slots=True)
class Signature:
    """Tensors by name; `features` name the columns of the one input, if it has such."""

    inputs: Mapping[str, TensorType]
    outputs: Mapping[str, TensorType]
    features: tuple[str, ...] = ()


def trained_signature(features: Sequence[str]) -> Signature:
    """Of a version that takes features and gives a score."""
    given = TensorType("float32", len(features))
    return Signature({FEATURES: given}, {SCORE: TensorType("float32")}, tuple(features))


@dataclass(frozen=True, slots=True)
class RegisteredTensor:
    """A tensor as the registry tells it; ANY_SIZE where the file leaves a size open."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.datatype}{list(self.shape)}"


@dataclass(frozen=True, slots=True)
class RegisteredTensors:
    """What the registry tells of a version."""

    inputs: tuple[RegisteredTensor, ...]
    outputs: tuple[RegisteredTensor, ...]
    features: tuple[str, ...] = ()


def registered_signature(graph: Graph, step: str, registered: RegisteredTensors) -> Signature:
    """Raises Invalid BAD_DEFINITION for a version whose inputs are not rows."""
    inputs, outputs = {}, {}
    declared = graph.model_steps()[step].outputs
    for each in registered.inputs:
        taken = _row_type(each)
        if taken is None:
            problem = f"takes {each}: a graph gives rows, [-1] or [-1, n] of {_elements()}"
            refuse(graph, f"steps.{step}.model", problem)
        inputs[each.name] = taken
    for each in registered.outputs:
        # An exporter may leave the number of columns open, and the graph says it.
        given = _row_type(each) or _row_type(each, declared.get(each.name))
        if given is not None:
            outputs[each.name] = given
    return Signature(inputs, outputs, registered.features)


def _row_type(tensor: RegisteredTensor, declared: TensorType | None = None) -> TensorType | None:
    """None of a tensor that has no first size left open for rows, or too many sizes."""
    element = ELEMENT_BY_DATATYPE.get(tensor.datatype)
    if element is None or tensor.shape[:1] != (ANY_SIZE,) or len(tensor.shape) > 2:
        return None
    if len(tensor.shape) == 1:
        return TensorType(element)
    columns = tensor.shape[1]
    if columns == ANY_SIZE:
        open_fits = declared is not None and declared.element == element and declared.columns
        return declared if open_fits else None
    return TensorType(element, columns) if columns > 0 else None


def _elements() -> str:
    return ", ".join(ELEMENT_BY_DATATYPE)

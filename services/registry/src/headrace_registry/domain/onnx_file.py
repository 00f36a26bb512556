# SPDX-License-Identifier: Apache-2.0
"""Reads just enough of an ONNX file to refuse what is not one, or points to other files.

It walks the wire format over the messages of onnx.proto3 that can hold a tensor, wherever one may
hide: initializers, attributes, subgraphs, functions, training graphs.
"""

from __future__ import annotations

from mmap import mmap

from headrace.errors import Invalid
from headrace.protobuf_wire import Field, fields, malformed

DEPTH_MAX = 100
FIELDS_MAX = 1_000_000

# Message -> field number -> message of that field, from onnx.proto3; other fields are passed over.
TENSOR_FIELDS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor",
                  23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Training": {1: "Graph", 2: "Graph"},
    "Tensor": {},
}  # fmt: skip
MODEL_IR_VERSION, MODEL_GRAPH, MODEL_OPSET = 1, 7, 8
TENSOR_EXTERNAL_DATA, TENSOR_DATA_LOCATION = 13, 14


def check_onnx(data: bytes | mmap) -> None:
    """Raises Invalid FORMAT unless it is an ONNX model, EXTERNAL_DATA when weights lie outside."""
    seen: set[int] = set()
    pending = [("Model", memoryview(data), 1)]
    fields_left = FIELDS_MAX
    while pending:
        message, content, depth = pending.pop()
        for field in fields(content):
            fields_left -= 1
            if fields_left < 0 or depth > DEPTH_MAX:
                raise malformed("it is nested too deep or has too many fields")
            if message == "Model":
                seen.add(field.number)
            elif message == "Tensor":
                _check_tensor(field)
            inner = TENSOR_FIELDS[message].get(field.number)
            if inner is not None and field.content is not None:
                pending.append((inner, field.content, depth + 1))
    if not {MODEL_IR_VERSION, MODEL_GRAPH, MODEL_OPSET} <= seen:
        raise malformed("it lacks an IR version, a graph or an operator set")


def _check_tensor(field: Field) -> None:
    external = field.number == TENSOR_EXTERNAL_DATA and field.content is not None
    # Any location but 0 (inside the file): readers cut the number to 32 bits, we do not.
    if external or (field.number == TENSOR_DATA_LOCATION and field.varint):
        raise Invalid("EXTERNAL_DATA")

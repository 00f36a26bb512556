# SPDX-License-Identifier: Apache-2.0
"""Reads just enough of an ONNX file to refuse what is not one, or points to other files.

It walks the protobuf wire format (protobuf.dev/programming-guides/encoding) over the messages of
onnx.proto3 that can hold a tensor, wherever one may hide: initializers, attributes, subgraphs,
functions, training graphs. Nothing is decoded, copied or allocated by a size that the file claims.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from headrace.errors import Invalid

DEPTH_MAX = 100
FIELDS_MAX = 1_000_000

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

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


class Field(NamedTuple):
    """One field of a message: a number for a varint, a view of the bytes, None for fixed sizes."""

    number: int
    varint: int | None
    content: memoryview | None


def check_onnx(data: bytes) -> None:
    """Raises Invalid FORMAT unless it is an ONNX model, EXTERNAL_DATA when weights lie outside."""
    seen: set[int] = set()
    pending = [("Model", memoryview(data), 1)]
    fields_left = FIELDS_MAX
    while pending:
        message, content, depth = pending.pop()
        for field in _fields(content):
            fields_left -= 1
            if fields_left < 0 or depth > DEPTH_MAX:
                raise _malformed("it is nested too deep or has too many fields")
            if message == "Model":
                seen.add(field.number)
            elif message == "Tensor":
                _check_tensor(field)
            inner = TENSOR_FIELDS[message].get(field.number)
            if inner is not None and field.content is not None:
                pending.append((inner, field.content, depth + 1))
    if not {MODEL_IR_VERSION, MODEL_GRAPH, MODEL_OPSET} <= seen:
        raise _malformed("it lacks an IR version, a graph or an operator set")


def _check_tensor(field: Field) -> None:
    external = field.number == TENSOR_EXTERNAL_DATA and field.content is not None
    # Any location but 0 (inside the file): readers cut the number to 32 bits, we do not.
    if external or (field.number == TENSOR_DATA_LOCATION and field.varint):
        raise Invalid("EXTERNAL_DATA")


def _fields(content: memoryview) -> Iterator[Field]:
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        number, wire_type = tag >> 3, tag & 7
        if number == 0 or tag >= 1 << 32:
            raise _malformed("a field has no number")
        if wire_type == VARINT:
            value, at = _varint(content, at)
            yield Field(number, value, None)
        elif wire_type == BYTES:
            size, start = _varint(content, at)
            at = _within(content, start + size)
            yield Field(number, None, content[start:at])
        elif wire_type in (FIXED32, FIXED64):
            at = _within(content, at + (4 if wire_type == FIXED32 else 8))
            yield Field(number, None, None)
        else:
            raise _malformed("a field has a wire type that ONNX does not use")


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    """The number and where it ends; at most 10 bytes."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            break
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _malformed("a number is cut or too long")


def _within(content: memoryview, end: int) -> int:
    if end > len(content):
        raise _malformed("a field reaches past the end")
    return end


def _malformed(problem: str) -> Invalid:
    return Invalid("FORMAT", format="onnx", problem=problem)

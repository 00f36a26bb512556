# SPDX-License-Identifier: Apache-2.0
"""The signature of a model: what it takes and gives, in the words of the Open Inference Protocol.

It is read from the ONNX file itself (onnx.proto3: GraphProto, ValueInfoProto, TypeProto), never
told by a caller, so that what is served is what was registered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap

from headrace.errors import Invalid
from headrace.protobuf_wire import Field, fields, malformed
from headrace.reserved_names import is_reserved_output

# As many as a request may have.
INPUTS_MAX = 64
OUTPUTS_MAX = 256
RANK_MAX = 32
DIMENSION_MAX = 2**31 - 1
NAME_LENGTH_MAX = 256
ANY_SIZE = -1

MODEL_GRAPH = 7
GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_SPARSE = 5, 11, 12, 15
TENSOR_NAME, SPARSE_VALUES = 8, 1
VALUE_NAME, VALUE_TYPE = 1, 2
TYPE_TENSOR = 1
TENSOR_ELEMENT, TENSOR_SHAPE = 1, 2
SHAPE_DIMENSION, DIMENSION_VALUE, DIMENSION_NAME = 1, 1, 2

# TensorProto.DataType -> datatype of the protocol.
DATATYPE_BY_ELEMENT = {
    1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64", 8: "BYTES",
    9: "BOOL", 10: "FP16", 11: "FP64", 12: "UINT32", 13: "UINT64", 16: "BF16",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorSignature:
    """One input or output; ANY_SIZE stands where the file leaves a dimension open."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs in the order of the file."""

    inputs: tuple[TensorSignature, ...]
    outputs: tuple[TensorSignature, ...]


def read_signature(data: bytes | mmap) -> Signature:
    """Of an ONNX file; Invalid FORMAT names the tensor that the protocol cannot carry."""
    inputs: list[TensorSignature] = []
    outputs: list[TensorSignature] = []
    weights: set[str] = set()
    for graph in _messages(memoryview(data), MODEL_GRAPH):
        for field in fields(graph):
            if field.content is None:
                continue
            if field.number == GRAPH_INPUT:
                inputs.append(_tensor("input", field.content))
            elif field.number == GRAPH_OUTPUT:
                outputs.append(_tensor("output", field.content))
            elif field.number in (GRAPH_INITIALIZER, GRAPH_SPARSE):
                weights.add(_weight_name(field))
    # Before IR version 4 weights stand among the inputs too; no caller sends those.
    asked = tuple(each for each in inputs if each.name not in weights)
    _check("input", asked, INPUTS_MAX)
    _check("output", tuple(outputs), OUTPUTS_MAX)
    return Signature(asked, tuple(outputs))


def _check(role: str, tensors: tuple[TensorSignature, ...], count_max: int) -> None:
    names = {each.name for each in tensors}
    if not 0 < len(tensors) <= count_max:
        raise _refused(role, "", f"there are {len(tensors)}, 1 to {count_max} can be served")
    if len(names) != len(tensors):
        raise _refused(role, "", "a name is given twice")
    reserved = ", ".join(sorted(filter(is_reserved_output, names)))
    if role == "output" and reserved:
        raise _refused(role, reserved, "is what the service answers; choose another name")


def _tensor(role: str, value_info: memoryview) -> TensorSignature:
    name = _text(value_info, VALUE_NAME)
    if not (0 < len(name) <= NAME_LENGTH_MAX and name.isprintable()):
        raise _refused(role, name, "its name is empty, too long or not printable")
    types = list(_messages(value_info, VALUE_TYPE))
    tensors = list(_messages(types[-1], TYPE_TENSOR)) if types else []
    if not tensors:
        raise _refused(role, name, "is no tensor, or has no type")
    element = _number(tensors[-1], TENSOR_ELEMENT)
    if element not in DATATYPE_BY_ELEMENT:
        raise _refused(role, name, f"element type {element} is none of the protocol's")
    shapes = list(_messages(tensors[-1], TENSOR_SHAPE))
    if not shapes:
        raise _refused(role, name, "has no shape; onnx.shape_inference writes it into the file")
    return TensorSignature(name, DATATYPE_BY_ELEMENT[element], _shape(role, name, shapes[-1]))


def _shape(role: str, name: str, shape: memoryview) -> tuple[int, ...]:
    sizes = tuple(_size(each) for each in _messages(shape, SHAPE_DIMENSION))
    if len(sizes) > RANK_MAX or any(size > DIMENSION_MAX for size in sizes):
        raise _refused(role, name, "has too many dimensions, or one too large or negative")
    return sizes


def _size(dimension: memoryview) -> int:
    """The last of value and name counts, for they are one `oneof`."""
    size = ANY_SIZE
    for field in fields(dimension):
        if field.number == DIMENSION_VALUE and field.varint is not None:
            size = field.varint
        elif field.number == DIMENSION_NAME:
            size = ANY_SIZE
            try:
                bytes(field.content or b"").decode()
            except UnicodeDecodeError as err:  # which nobody could load: the runtime tells names
                raise malformed("the name of a size is no UTF-8") from err
    return size


def _weight_name(field: Field) -> str:
    content = field.content or memoryview(b"")
    if field.number == GRAPH_INITIALIZER:
        return _text(content, TENSOR_NAME)
    values = list(_messages(content, SPARSE_VALUES))
    return _text(values[-1], TENSOR_NAME) if values else ""


def _messages(content: memoryview, number: int) -> Iterator[memoryview]:
    for field in fields(content):
        if field.number == number and field.content is not None:
            yield field.content


def _text(content: memoryview, number: int) -> str:
    """The last one given counts (protobuf); bytes that are no UTF-8 name nothing."""
    found = b""
    for message in _messages(content, number):
        found = bytes(message[: 4 * NAME_LENGTH_MAX + 4])
    try:
        return found.decode()
    except UnicodeDecodeError:
        return ""


def _number(content: memoryview, number: int) -> int:
    found = 0
    for field in fields(content):
        if field.number == number and field.varint is not None:
            found = field.varint
    return found


def _refused(role: str, name: str, problem: str) -> Invalid:
    return Invalid("FORMAT", format="onnx", tensor=f"{role} {name[:64]}".strip(), problem=problem)

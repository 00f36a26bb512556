# SPDX-License-Identifier: Apache-2.0
"""An ONNX file as the wire format of onnx.proto3 has it, for inference has no onnx.

Of its nodes the names are read, of its weights nothing but where they end.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from headrace.protobuf_wire import (
    BYTES,
    Field,
    bytes_field,
    fields,
    malformed,
    number_field,
    varint,
)

# Operators that hold graphs.
HOLDERS = ("If", "Loop", "Scan", "SequenceMap")
CONSTANT = "Constant"

# Fields of onnx.proto3.
MODEL_GRAPH, MODEL_HEAD = 7, (1, 8)  # its IR version and operator sets
GRAPH_NODE, GRAPH_WEIGHT, GRAPH_INPUT, GRAPH_OUTPUT = 1, 5, 11, 12
NODE_INPUT, NODE_OUTPUT, NODE_OPERATOR, NODE_ATTRIBUTE = 1, 2, 4, 5
ATTRIBUTE_NAME, ATTRIBUTE_INT, ATTRIBUTE_TENSOR, ATTRIBUTE_INTS = 1, 3, 5, 8
ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS = 6, 11
TENSOR_SIZES, TENSOR_TYPE, TENSOR_INT32S, TENSOR_INT64S, TENSOR_NAME = 1, 2, 5, 7, 8
TENSOR_RAW, TENSOR_UINT64S = 9, 11
VALUE_NAME, VALUE_TYPE, TYPE_TENSOR, TENSOR_TYPE_ELEMENT, TENSOR_TYPE_SHAPE = 1, 2, 1, 1, 2
SHAPE_SIZE, SIZE_NUMBER = 1, 1

VARINT_BYTES_MAX = 10
# That are held decoded at once, of what may fill the file.
PIECE_NUMBERS = 1 << 16

Parts = list[memoryview]
Piece = bytes | memoryview


@dataclass(slots=True)
class Node:
    operator: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: Parts = field(default_factory=list)

    def graphs(self) -> Iterator[Parts]:
        """A graph that comes in parts is one."""
        if self.operator not in HOLDERS:
            return
        for attribute in self.attributes:
            found = [*fields(attribute)]
            one = [each.content for each in found if each.number == ATTRIBUTE_GRAPH]
            if parts := [each for each in one if each is not None]:
                yield parts
            yield from (
                [each.content]
                for each in found
                if each.number == ATTRIBUTE_GRAPHS and each.content is not None
            )


@dataclass(slots=True)
class Graph:
    parts: Parts
    nodes: list[Node] = field(default_factory=list)
    weights: dict[str, memoryview] = field(default_factory=dict)
    inputs: set[str] = field(default_factory=set)
    outputs: set[str] = field(default_factory=set)

    @property
    def made(self) -> set[str]:
        """What its nodes give."""
        return {name for node in self.nodes for name in node.outputs if name}


def nodes_of(parts: Parts) -> Iterator[Node]:
    for part in parts:
        for each in fields(part):
            if each.number == GRAPH_NODE and each.content is not None:
                yield node_of(each.content)


def node_of(content: memoryview) -> Node:
    node = Node()
    for each in fields(content):
        if each.content is None:
            continue
        if each.number == NODE_INPUT:
            node.inputs.append(text_of(each.content))
        elif each.number == NODE_OUTPUT:
            node.outputs.append(text_of(each.content))
        elif each.number == NODE_OPERATOR:
            node.operator = text_of(each.content)
        elif each.number == NODE_ATTRIBUTE:
            node.attributes.append(each.content)
    return node


def graph_of(parts: Parts) -> Graph:
    graph = Graph(parts, [*nodes_of(parts)])
    for part in parts:
        for each in fields(part):
            if each.content is None:
                continue
            if each.number == GRAPH_WEIGHT:
                graph.weights[name_of(each.content, TENSOR_NAME)] = each.content
            elif each.number == GRAPH_INPUT:
                graph.inputs.add(name_of(each.content, VALUE_NAME))
            elif each.number == GRAPH_OUTPUT:
                graph.outputs.add(name_of(each.content, VALUE_NAME))
    return graph


def whole_number(found: Iterable[Field], number: int) -> int:
    """The last one given counts (protobuf)."""
    value = 0
    for each in found:
        if each.number == number and each.varint is not None:
            value = each.varint & 0xFFFF_FFFF_FFFF_FFFF
    return value


def whole_numbers(found: Iterable[Field], places: Collection[int]) -> Iterator[NDArray[np.int64]]:
    """Of repeated fields, one by one or packed together: some at a time, for there may be millions.

    Raises Invalid FORMAT.
    """
    single: list[int] = []
    for each in found:
        if each.number not in places:
            continue
        if each.content is not None:
            yield from _packed(each.content)
        elif each.varint is not None:
            single.append(each.varint & 0xFFFF_FFFF_FFFF_FFFF)
            if len(single) == PIECE_NUMBERS:
                yield np.array(single, np.uint64).view(np.int64)
                single = []
    yield np.array(single, np.uint64).view(np.int64)


def _packed(content: memoryview) -> Iterator[NDArray[np.int64]]:
    at = 0
    while at < len(content):
        piece = np.frombuffer(content[at : at + PIECE_NUMBERS], np.uint8)
        ends = np.flatnonzero(piece < 0x80) + 1
        sizes = np.diff(ends, prepend=0)
        if not len(ends) or sizes.max() > VARINT_BYTES_MAX:
            raise malformed("a number is cut or too long")
        yield _varints(piece, ends - sizes, sizes)
        at += int(ends[-1])


def _varints(
    piece: NDArray[np.uint8], starts: NDArray[np.intp], sizes: NDArray[np.intp]
) -> NDArray[np.int64]:
    """Base 128, the least significant group first."""
    numbers = np.zeros(len(starts), np.uint64)
    for place in range(int(sizes.max())):
        there = sizes > place
        group = piece[starts[there] + place].astype(np.uint64) & 0x7F
        numbers[there] |= group << np.uint64(7 * place)
    return numbers.view(np.int64)


def name_of(content: memoryview, number: int) -> str:
    found = b""
    for each in fields(content):
        if each.number == number and each.content is not None:
            found = bytes(each.content)
    return found.decode(errors="replace")


def text_of(content: memoryview) -> str:
    return bytes(content).decode(errors="replace")


def value_info(name: str, element: int = 0, sizes: Sequence[int] | None = None) -> bytes:
    """A ValueInfoProto; the runtime works out what is not told."""
    named = bytes_field(VALUE_NAME, name.encode())
    if not element:
        return named
    tensor = number_field(TENSOR_TYPE_ELEMENT, element)
    if sizes is not None:
        numbers = [number_field(SIZE_NUMBER, size) for size in sizes]
        shape = b"".join(bytes_field(SHAPE_SIZE, number) for number in numbers)
        tensor += bytes_field(TENSOR_TYPE_SHAPE, shape)
    return named + bytes_field(VALUE_TYPE, bytes_field(TYPE_TENSOR, tensor))


def encoded(each: Field) -> Iterator[Piece]:
    """Its bytes, which are not copied. No number of a fixed size is in a graph or a node."""
    if each.content is not None:
        yield from message(each.number, [each.content])
    elif each.varint is not None:
        yield number_field(each.number, each.varint)


def message(number: int, pieces: Collection[Piece]) -> Iterator[Piece]:
    """A field that holds the pieces one after the other."""
    yield varint(number << 3 | BYTES) + varint(sum(map(len, pieces)))
    yield from pieces

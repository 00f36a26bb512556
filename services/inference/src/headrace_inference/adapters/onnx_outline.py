# SPDX-License-Identifier: Apache-2.0
"""What a graph tells of types, without its weights, which are as large as the file.

A large weight, or Constant, is what the model takes instead: of its type and sizes, under a name of
its own that a node hands on, so that it may stand in a graph inside another. Small ones stay, for
shapes are worked out of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from headrace.protobuf_wire import bytes_field, fields, malformed
from headrace_inference.adapters.onnx_wire import (
    ATTRIBUTE_GRAPH,
    ATTRIBUTE_GRAPHS,
    ATTRIBUTE_TENSOR,
    CONSTANT,
    GRAPH_INPUT,
    GRAPH_NODE,
    GRAPH_WEIGHT,
    HOLDERS,
    NODE_ATTRIBUTE,
    NODE_INPUT,
    NODE_OPERATOR,
    NODE_OUTPUT,
    TENSOR_SIZES,
    TENSOR_TYPE,
    Node,
    Parts,
    Piece,
    encoded,
    graph_of,
    message,
    node_of,
    value_info,
    whole_number,
    whole_numbers,
)

WEIGHT_BYTES_MAX = 1024
# As numpy has it.
DIMENSIONS_MAX = 64


def outline(parts: Parts) -> list[Piece]:
    """The fields of the graph that the model may have instead, in pieces that are no copies."""
    stand_ins = _StandIns()
    pieces = [*stand_ins.graph(parts)]
    return [*pieces, *(bytes_field(GRAPH_INPUT, each) for each in stand_ins.taken)]


class _StandIns:
    def __init__(self) -> None:
        # What the outermost graph takes besides.
        self.taken: list[bytes] = []

    def graph(self, parts: Parts) -> Iterator[Piece]:
        """A node comes after those that it reads, so what stands for weights comes first."""
        graph = graph_of(parts)
        for name, weight in graph.weights.items():
            if len(weight) > WEIGHT_BYTES_MAX and name not in graph.inputs:
                yield self._stand_in(name, weight)
        for part in parts:
            for each in fields(part):
                if each.number == GRAPH_NODE and each.content is not None:
                    yield from self._node(each.content)
                elif (
                    each.number != GRAPH_WEIGHT
                    or each.content is None
                    or len(each.content) <= WEIGHT_BYTES_MAX
                ):
                    yield from encoded(each)

    def _node(self, content: memoryview) -> Iterator[Piece]:
        node = node_of(content) if len(content) > WEIGHT_BYTES_MAX else Node()
        if node.operator == CONSTANT and (value := _value(node)) is not None:
            yield self._stand_in(node.outputs[0], value)
        elif node.operator in HOLDERS:
            yield from message(GRAPH_NODE, [*self._holder(content)])
        else:
            yield from message(GRAPH_NODE, [content])

    def _holder(self, content: memoryview) -> Iterator[Piece]:
        for each in fields(content):
            if each.number == NODE_ATTRIBUTE and each.content is not None:
                yield from message(NODE_ATTRIBUTE, [*self._attribute(each.content)])
            else:
                yield from encoded(each)

    def _attribute(self, content: memoryview) -> Iterator[Piece]:
        """A graph that comes in parts is one."""
        one = [each.content for each in fields(content) if each.number == ATTRIBUTE_GRAPH]
        if parts := [each for each in one if each is not None]:
            yield from message(ATTRIBUTE_GRAPH, [*self.graph(parts)])
        for each in fields(content):
            if each.number == ATTRIBUTE_GRAPHS and each.content is not None:
                yield from message(ATTRIBUTE_GRAPHS, [*self.graph([each.content])])
            elif each.number != ATTRIBUTE_GRAPH:
                yield from encoded(each)

    def _stand_in(self, name: str, tensor: memoryview) -> bytes:
        """A node that gives the name what the model takes."""
        taken = f"headrace/{len(self.taken)}"
        sizes = _sizes(tensor)
        self.taken.append(value_info(taken, whole_number(fields(tensor), TENSOR_TYPE), sizes))
        texts = ((NODE_INPUT, taken), (NODE_OUTPUT, name), (NODE_OPERATOR, "Identity"))
        node = b"".join(bytes_field(number, text.encode()) for number, text in texts)
        return bytes_field(GRAPH_NODE, node)


def _sizes(tensor: memoryview) -> list[int]:
    """Raises Invalid FORMAT for more of them than any tensor has."""
    sizes: list[int] = []
    for piece in whole_numbers(fields(tensor), (TENSOR_SIZES,)):
        if len(sizes) + len(piece) > DIMENSIONS_MAX:
            raise malformed(f"a weight has more than {DIMENSIONS_MAX} dimensions")
        sizes += piece.tolist()
    return sizes


def _value(node: Node) -> memoryview | None:
    """Of a Constant that holds a tensor."""
    for attribute in node.attributes:
        for each in fields(attribute):
            if each.number == ATTRIBUTE_TENSOR:
                return each.content
    return None

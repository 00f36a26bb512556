# SPDX-License-Identifier: Apache-2.0
"""A file whose Div could end the process is not loaded, though the registry took it once.

The rule is the registry's (its adapter of this name), which refuses such files now: whole numbers
are divided by constants alone, and by none with 0 or -1 in it, for the least int64 by -1 ends the
process that asks for it. It is looked for before a session is made, which works out constants.

The file is read as the wire format of onnx.proto3 has it, for inference has no onnx: of its nodes
the names, of its weights nothing but where they end. Of which types a division is, where the file
does not tell, is asked of the runtime, by a session that runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from headrace.errors import Invalid
from headrace.protobuf_wire import Field, bytes_field, fields, number_field

DIVISION = "Div"
# Operators that hold graphs, and what hands on the numbers of its first input.
HOLDERS = ("If", "Loop", "Scan", "SequenceMap")
HANDING_ON = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")

# Fields of onnx.proto3.
MODEL_GRAPH, MODEL_HEAD = 7, (1, 8)  # its IR version and operator sets
GRAPH_NODE, GRAPH_WEIGHT, GRAPH_INPUT, GRAPH_OUTPUT = 1, 5, 11, 12
NODE_INPUT, NODE_OUTPUT, NODE_OPERATOR, NODE_ATTRIBUTE = 1, 2, 4, 5
ATTRIBUTE_NAME, ATTRIBUTE_INT, ATTRIBUTE_TENSOR, ATTRIBUTE_INTS = 1, 3, 5, 8
ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS = 6, 11
TENSOR_TYPE, TENSOR_INT32S, TENSOR_INT64S, TENSOR_NAME = 2, 5, 7, 8
TENSOR_RAW, TENSOR_UINT64S = 9, 11
VALUE_NAME, VALUE_TYPE, TYPE_TENSOR, TENSOR_TYPE_ELEMENT = 1, 2, 1, 1

# By TensorProto.DataType.
TYPE_BY_ELEMENT = {
    1: "tensor(float)", 2: "tensor(uint8)", 3: "tensor(int8)", 4: "tensor(uint16)",
    5: "tensor(int16)", 6: "tensor(int32)", 7: "tensor(int64)", 8: "tensor(string)",
    9: "tensor(bool)", 10: "tensor(float16)", 11: "tensor(double)", 12: "tensor(uint32)",
    13: "tensor(uint64)", 16: "tensor(bfloat16)",
}  # fmt: skip
ELEMENT_BY_TYPE = {name: element for element, name in TYPE_BY_ELEMENT.items()}
FLOATS = ("tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)")
WHOLE_BY_ELEMENT: dict[int, type] = {
    2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 12: np.uint32,
    13: np.uint64,
}  # fmt: skip

Parts = list[memoryview]
# Types of what a model takes and gives, by name; raises Invalid FORMAT.
AskTypes = Callable[[bytes], Mapping[str, str]]


def check_divisions(onnx: bytes, ask_types: AskTypes) -> None:
    """Raises Invalid FORMAT."""
    model = [*fields(memoryview(onnx))]
    graphs = [each.content for each in model if each.number == MODEL_GRAPH and each.content]
    if not _divides(graphs):
        return
    head = b"".join(_encoded(each) for each in model if each.number in MODEL_HEAD)
    _Scope(_graph(graphs), None, head, ask_types).check({})


@dataclass(slots=True)
class _Node:
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
class _Graph:
    parts: Parts
    nodes: list[_Node] = field(default_factory=list)
    weights: dict[str, memoryview] = field(default_factory=dict)
    inputs: set[str] = field(default_factory=set)
    outputs: set[str] = field(default_factory=set)

    @property
    def made(self) -> set[str]:
        """What its nodes give."""
        return {name for node in self.nodes for name in node.outputs if name}


# A weight, or a node that gives a constant or hands one on.
_Constants = Mapping[str, memoryview | _Node]


class _Scope:
    """A graph and what is known around it."""

    def __init__(
        self, graph: _Graph, around: _Scope | None, head: bytes, ask_types: AskTypes
    ) -> None:
        self._graph, self._around, self._head, self._ask = graph, around, head, ask_types

    def check(self, given: _Constants) -> None:
        """As the registry walks it."""
        weights = {
            name: each
            for name, each in self._graph.weights.items()
            if self._around is None or name not in self._graph.inputs
        }
        known = {name: each for name, each in given.items() if name not in self._graph.inputs}
        constants: dict[str, memoryview | _Node] = {**known, **weights}
        for node in self._graph.nodes:
            if node.operator == DIVISION:
                self._check_division(node, constants)
            for parts in node.graphs():
                _Scope(_graph(parts), self, self._head, self._ask).check(constants)
            if node.outputs and _is_constant(node, constants):
                constants.setdefault(node.outputs[0], node)

    def _check_division(self, node: _Node, constants: _Constants) -> None:
        """All that a division takes and gives is of one type; the runtime refuses anything else."""
        divisor = _numbers(node.inputs[1], constants) if len(node.inputs) > 1 else None
        if divisor is not None:
            if np.isin(divisor, (0, -1)).any():
                raise _refused(f"{DIVISION} of whole numbers by a constant that holds 0 or -1")
            return
        names = (*node.inputs, *node.outputs)
        told = [each for name in names if isinstance(each := constants.get(name), memoryview)]
        if any(_weight_type(each) in FLOATS for each in told):
            return
        if not any(self.types.get(name) in FLOATS for name in names):
            raise _refused(
                f"{DIVISION} of whole numbers, or of a type that is not told: "
                "only floats can be divided by what is no constant"
            )

    @cached_property
    def types(self) -> dict[str, str]:
        """By name, of all that can be named here. A graph inside another is asked about as a model
        that takes what it sees of that.
        """
        graph = self._graph
        own = graph.made | graph.inputs | graph.weights.keys()
        seen = {} if self._around is None else self._around.types
        captured = {name: each for name, each in seen.items() if name not in own}
        taken = [
            (name, ELEMENT_BY_TYPE[captured[name]])
            for name in sorted(_named_in(graph.parts) & captured.keys())
            if captured[name] in ELEMENT_BY_TYPE
        ]
        more = [bytes_field(GRAPH_INPUT, _value(name, element)) for name, element in taken]
        more += [
            bytes_field(GRAPH_OUTPUT, _value(name)) for name in sorted(graph.made - graph.outputs)
        ]
        whole = b"".join([*graph.parts, *more])
        weights = {name: _weight_type(each) for name, each in graph.weights.items()}
        return {**captured, **weights, **self._asked(self._head + bytes_field(MODEL_GRAPH, whole))}

    def _asked(self, model: bytes) -> Mapping[str, str]:
        try:
            return self._ask(model)
        except Invalid:
            if self._around is None:
                raise
            return {}  # not every graph that is inside another can stand alone


def _divides(parts: Parts) -> bool:
    """Whether there is any division: most files have none, and need no closer look."""
    pending = [parts]
    while pending:
        for part in pending.pop():
            for each in fields(part):
                if each.number != GRAPH_NODE or each.content is None:
                    continue
                operator = _name(each.content, NODE_OPERATOR)
                if operator == DIVISION:
                    return True
                if operator in HOLDERS:
                    pending.extend(_node(each.content).graphs())
    return False


def _named_in(parts: Parts) -> set[str]:
    """What its nodes and its outputs name, graphs inside it too."""
    names: set[str] = set()
    pending = [parts]
    while pending:
        graph = _graph(pending.pop())
        names |= graph.outputs
        for node in graph.nodes:
            names.update(node.inputs)
            pending.extend(node.graphs())
    return names


def _nodes(parts: Parts) -> Iterator[_Node]:
    for part in parts:
        for each in fields(part):
            if each.number == GRAPH_NODE and each.content is not None:
                yield _node(each.content)


def _node(content: memoryview) -> _Node:
    node = _Node()
    for each in fields(content):
        if each.content is None:
            continue
        if each.number == NODE_INPUT:
            node.inputs.append(_text(each.content))
        elif each.number == NODE_OUTPUT:
            node.outputs.append(_text(each.content))
        elif each.number == NODE_OPERATOR:
            node.operator = _text(each.content)
        elif each.number == NODE_ATTRIBUTE:
            node.attributes.append(each.content)
    return node


def _graph(parts: Parts) -> _Graph:
    graph = _Graph(parts, [*_nodes(parts)])
    for part in parts:
        for each in fields(part):
            if each.content is None:
                continue
            if each.number == GRAPH_WEIGHT:
                graph.weights[_name(each.content, TENSOR_NAME)] = each.content
            elif each.number == GRAPH_INPUT:
                graph.inputs.add(_name(each.content, VALUE_NAME))
            elif each.number == GRAPH_OUTPUT:
                graph.outputs.add(_name(each.content, VALUE_NAME))
    return graph


def _is_constant(node: _Node, constants: _Constants) -> bool:
    hands_on = node.operator in HANDING_ON and node.inputs and node.inputs[0] in constants
    return node.operator == "Constant" or bool(hands_on)


def _numbers(name: str, constants: _Constants) -> NDArray[np.generic] | None:
    """None for what is not known: no constant, or one that was never a whole number."""
    types: list[int] = []
    found = constants.get(name)
    while isinstance(found, _Node) and found.operator != "Constant":
        types += [_whole(fields(each), ATTRIBUTE_INT) for each in found.attributes
                  if _name(each, ATTRIBUTE_NAME) == "to"]  # fmt: skip
        found = constants.get(found.inputs[0])
    numbers = _constant(found) if isinstance(found, _Node) else _tensor(found)
    if numbers is None or not set(types) <= WHOLE_BY_ELEMENT.keys():
        return None
    for to in reversed(types):
        numbers = numbers.astype(WHOLE_BY_ELEMENT[to])
    return numbers


def _constant(node: _Node) -> NDArray[np.generic] | None:
    for attribute in node.attributes:
        name, found = _name(attribute, ATTRIBUTE_NAME), [*fields(attribute)]
        if name == "value":
            tensors = [each.content for each in found if each.number == ATTRIBUTE_TENSOR]
            return _tensor(tensors[-1]) if tensors else None
        if name == "value_int":
            return np.array([_whole(found, ATTRIBUTE_INT)], np.uint64).view(np.int64)
        if name == "value_ints":
            return _varints(found, ATTRIBUTE_INTS)
    return None


def _tensor(content: memoryview | None) -> NDArray[np.generic] | None:
    """The whole numbers of a tensor."""
    if content is None:
        return None
    found = [*fields(content)]
    kind = WHOLE_BY_ELEMENT.get(_whole(found, TENSOR_TYPE))
    if kind is None:
        return None
    raw = [each.content for each in found if each.number == TENSOR_RAW and each.content]
    if raw:
        return np.frombuffer(raw[-1], np.dtype(kind).newbyteorder("<"))
    places = (TENSOR_INT32S, TENSOR_INT64S, TENSOR_UINT64S)
    return np.concatenate([_varints(found, place) for place in places]).astype(kind)


def _weight_type(tensor: memoryview) -> str:
    return TYPE_BY_ELEMENT.get(_whole(fields(tensor), TENSOR_TYPE), "")


def _whole(found: Iterable[Field], number: int) -> int:
    """The last one given counts (protobuf)."""
    value = 0
    for each in found:
        if each.number == number and each.varint is not None:
            value = each.varint & 0xFFFF_FFFF_FFFF_FFFF
    return value


def _varints(found: Iterable[Field], number: int) -> NDArray[np.int64]:
    """Of a repeated field, one by one or packed together."""
    numbers: list[int] = []
    for each in found:
        if each.number != number:
            continue
        if each.varint is not None:
            numbers.append(each.varint & 0xFFFF_FFFF_FFFF_FFFF)
        elif each.content is not None:
            numbers += _packed(each.content)
    return np.array(numbers, np.uint64).view(np.int64)


def _packed(content: memoryview) -> list[int]:
    numbers, value, shift = [], 0, 0
    for byte in content:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(value & 0xFFFF_FFFF_FFFF_FFFF)
            value = shift = 0
    return numbers


def _name(content: memoryview, number: int) -> str:
    found = b""
    for each in fields(content):
        if each.number == number and each.content is not None:
            found = bytes(each.content)
    return found.decode(errors="replace")


def _text(content: memoryview) -> str:
    return bytes(content).decode(errors="replace")


def _value(name: str, element: int = 0) -> bytes:
    """A ValueInfoProto; the runtime works out what is not told."""
    named = bytes_field(VALUE_NAME, name.encode())
    if not element:
        return named
    tensor = number_field(TENSOR_TYPE_ELEMENT, element)
    return named + bytes_field(VALUE_TYPE, bytes_field(TYPE_TENSOR, tensor))


def _encoded(each: Field) -> bytes:
    if each.content is not None:
        return bytes_field(each.number, bytes(each.content))
    return number_field(each.number, each.varint or 0)


def _refused(problem: str) -> Invalid:
    return Invalid("FORMAT", format="onnx", problem=problem)

# SPDX-License-Identifier: Apache-2.0
"""A file whose Div could end the process is not loaded, though the registry took it once.

The rule is the registry's (its adapter of this name), which refuses such files now: whole numbers
are divided by constants alone, and by none with 0 or -1 in it, for the least int64 by -1 ends the
process that asks for it. It is looked for before a session is made, which works out constants.

Of which types a division is, where the file does not tell, is asked of the runtime, by a session
that runs nothing and has no weights: the memory budget knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from headrace.errors import Invalid
from headrace.protobuf_wire import bytes_field, fields, malformed
from headrace_inference.adapters.onnx_outline import outline
from headrace_inference.adapters.onnx_wire import (
    ATTRIBUTE_INT,
    ATTRIBUTE_INTS,
    ATTRIBUTE_NAME,
    ATTRIBUTE_TENSOR,
    CONSTANT,
    GRAPH_INPUT,
    GRAPH_NODE,
    GRAPH_OUTPUT,
    HOLDERS,
    MODEL_GRAPH,
    MODEL_HEAD,
    NODE_OPERATOR,
    PIECE_NUMBERS,
    TENSOR_INT32S,
    TENSOR_INT64S,
    TENSOR_RAW,
    TENSOR_TYPE,
    TENSOR_UINT64S,
    Graph,
    Node,
    Parts,
    encoded,
    graph_of,
    message,
    name_of,
    node_of,
    value_info,
    whole_number,
    whole_numbers,
)

DIVISION = "Div"
# They hand on the numbers of their first input.
HANDING_ON = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
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

# Types of what a model takes and gives, by name; raises Invalid FORMAT.
AskTypes = Callable[[bytes], Mapping[str, str]]


def check_divisions(onnx: bytes, ask_types: AskTypes) -> None:
    """Raises Invalid FORMAT."""
    model = [*fields(memoryview(onnx))]
    graphs = [each.content for each in model if each.number == MODEL_GRAPH and each.content]
    if not _divides(graphs):
        return
    head = b"".join(piece for each in model if each.number in MODEL_HEAD for piece in encoded(each))
    _Scope(graph_of(graphs), None, head, ask_types).check({})


# A weight, or a node that gives a constant or hands one on.
_Constants = Mapping[str, memoryview | Node]


class _Scope:
    """A graph and what is known around it."""

    def __init__(
        self, graph: Graph, around: _Scope | None, head: bytes, ask_types: AskTypes
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
        constants: dict[str, memoryview | Node] = {**known, **weights}
        for node in self._graph.nodes:
            if node.operator == DIVISION:
                self._check_division(node, constants)
            for parts in node.graphs():
                _Scope(graph_of(parts), self, self._head, self._ask).check(constants)
            if node.outputs and _is_constant(node, constants):
                constants.setdefault(node.outputs[0], node)

    def _check_division(self, node: Node, constants: _Constants) -> None:
        """All that a division takes and gives is of one type; the runtime refuses anything else."""
        divisor = _numbers(node.inputs[1], constants) if len(node.inputs) > 1 else None
        if divisor is not None:
            if any(np.isin(piece, (0, -1)).any() for piece in divisor):
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
        more = [bytes_field(GRAPH_INPUT, value_info(name, element)) for name, element in taken]
        more += [
            bytes_field(GRAPH_OUTPUT, value_info(name))
            for name in sorted(graph.made - graph.outputs)
        ]
        model = b"".join([self._head, *message(MODEL_GRAPH, [*outline(graph.parts), *more])])
        weights = {name: _weight_type(each) for name, each in graph.weights.items()}
        return {**captured, **weights, **self._asked(model)}

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
                operator = name_of(each.content, NODE_OPERATOR)
                if operator == DIVISION:
                    return True
                if operator in HOLDERS:
                    pending.extend(node_of(each.content).graphs())
    return False


def _named_in(parts: Parts) -> set[str]:
    """What its nodes and its outputs name, graphs inside it too."""
    names: set[str] = set()
    pending = [parts]
    while pending:
        graph = graph_of(pending.pop())
        names |= graph.outputs
        for node in graph.nodes:
            names.update(node.inputs)
            pending.extend(node.graphs())
    return names


def _is_constant(node: Node, constants: _Constants) -> bool:
    hands_on = node.operator in HANDING_ON and node.inputs and node.inputs[0] in constants
    return node.operator == CONSTANT or bool(hands_on)


# Some at a time: all of them, decoded, may be many times as large as the file.
_Numbers = Iterator[NDArray[np.generic]]


def _numbers(name: str, constants: _Constants) -> _Numbers | None:
    """None for what is not known: no constant, or one that was never a whole number."""
    types: list[int] = []
    found = constants.get(name)
    while isinstance(found, Node) and found.operator != CONSTANT:
        types += [whole_number(fields(each), ATTRIBUTE_INT) for each in found.attributes
                  if name_of(each, ATTRIBUTE_NAME) == "to"]  # fmt: skip
        found = constants.get(found.inputs[0])
    numbers = _constant(found) if isinstance(found, Node) else _tensor(found)
    if numbers is None or not set(types) <= WHOLE_BY_ELEMENT.keys():
        return None
    return _cast(numbers, [WHOLE_BY_ELEMENT[to] for to in reversed(types)])


def _cast(numbers: _Numbers, kinds: Sequence[type]) -> _Numbers:
    for piece in numbers:
        for kind in kinds:
            piece = piece.astype(kind)
        yield piece


def _constant(node: Node) -> _Numbers | None:
    for attribute in node.attributes:
        name = name_of(attribute, ATTRIBUTE_NAME)
        if name == "value":
            return _tensor(_last(attribute, ATTRIBUTE_TENSOR))
        if name == "value_int":
            number = whole_number(fields(attribute), ATTRIBUTE_INT)
            return iter([np.array([number], np.uint64).view(np.int64)])
        if name == "value_ints":
            return whole_numbers(fields(attribute), (ATTRIBUTE_INTS,))
    return None


def _tensor(content: memoryview | None) -> _Numbers | None:
    """The whole numbers of a tensor."""
    if content is None:
        return None
    kind = WHOLE_BY_ELEMENT.get(whole_number(fields(content), TENSOR_TYPE))
    if kind is None:
        return None
    if raw := _last(content, TENSOR_RAW):
        return _raw(raw, np.dtype(kind).newbyteorder("<"))
    places = (TENSOR_INT32S, TENSOR_INT64S, TENSOR_UINT64S)
    return _cast(whole_numbers(fields(content), places), [kind])


def _raw(content: memoryview, kind: np.dtype[np.generic]) -> _Numbers:
    if len(content) % kind.itemsize:
        raise malformed("raw numbers are cut")
    numbers = np.frombuffer(content, kind)
    for at in range(0, len(numbers), PIECE_NUMBERS):
        yield numbers[at : at + PIECE_NUMBERS]


def _last(content: memoryview, number: int) -> memoryview | None:
    """That is given and not empty."""
    found = None
    for each in fields(content):
        if each.number == number and each.content:
            found = each.content
    return found


def _weight_type(tensor: memoryview) -> str:
    return TYPE_BY_ELEMENT.get(whole_number(fields(tensor), TENSOR_TYPE), "")


def _refused(problem: str) -> Invalid:
    return Invalid("FORMAT", format="onnx", problem=problem)

# SPDX-License-Identifier: Apache-2.0
"""Expressions as nodes of ONNX: the answers of docs/expressions.md, row by row, without a null.

A value is a matrix [rows, columns], one column for what has one value a row, of float64, int64,
bool or text, and beside it a matrix of bools that says where it is not null. What lies under a null
is never looked at, and no node may fail on it. Every node broadcasts all that it reads, so a value
has as many rows as what it reads, whatever it says of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from headrace.expression import Node
from headrace.graph_definition import Element

ELEMENTS: dict[Element, int] = {
    "bool": onnx.TensorProto.BOOL,
    "int32": onnx.TensorProto.INT32,
    "int64": onnx.TensorProto.INT64,
    "float32": onnx.TensorProto.FLOAT,
    "float64": onnx.TensorProto.DOUBLE,
    "string": onnx.TensorProto.STRING,
}
ARRAY_TYPES: dict[str, Any] = {
    "bool": np.bool_, "int64": np.int64, "float32": np.float32, "float64": np.float64,
    "string": np.object_,
}  # fmt: skip
NULLS: dict[str, Any] = {"bool": False, "int64": 0, "float64": 0.0, "string": ""}
FLOAT64_MAX = float(np.finfo(np.float64).max)
FLOAT32_MAX = float(np.finfo(np.float32).max)
INT64_MIN, INT64_END = -(2**63), 2.0**63
ARITHMETIC = {"add": "Add", "subtract": "Sub", "multiply": "Mul", "negate": "Neg", "abs": "Abs"}
COMPARISONS = {
    "equal": "Equal", "less": "Less", "less_equal": "LessOrEqual", "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
}  # fmt: skip
PLAIN = {"floor": "Floor", "ceil": "Ceil", "sqrt": "Sqrt", "ln": "Log", "exp": "Exp"}


class NodeWriter:
    """Nodes and constants under names of its own, which begin with a slash."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._constant_names: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """The name of the node's one output."""
        output = f"/{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    def constant(self, array: NDArray[Any]) -> str:
        content = repr(array.tolist()).encode()
        key = (array.dtype.str, array.shape, content)
        if key not in self._constant_names:
            name = f"/c{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(array, name))
            self._constant_names[key] = name
        return self._constant_names[key]

    def cast(self, value: str, element: Element) -> str:
        return self.add("Cast", value, to=ELEMENTS[element])


@dataclass(frozen=True, slots=True)
class Cell:
    """A value, and where it is not null; no `valid`: nowhere is it null."""

    value: str
    valid: str | None = None


class ExpressionWriter:
    """Writes one expression; `column` gives the matrix of a value by its name, and its element."""

    def __init__(self, writer: NodeWriter, column: Callable[[str], tuple[str, Element]]) -> None:
        self._to, self._column_of = writer, column
        # A part that stands in several places is written once.
        self._written: dict[int, tuple[Node, Cell]] = {}

    def write(self, tree: Node, element: Element) -> str:
        """The matrix of the whole: null is NaN in a number, false in a condition, else empty."""
        cell = self._cell(tree)
        if element in ("float32", "float64"):
            return self._number(cell, tree, element)
        if tree.type == "bool":
            return self._or_else(cell, value=False)
        value = cell.value
        if cell.valid is not None:
            value = self._to.add("Where", cell.valid, value, self._null(tree))
        return self._to.cast(value, "int32") if element == "int32" else value

    def _number(self, cell: Cell, tree: Node, element: Element) -> str:
        value = cell.value if tree.type == "float64" else self._to.cast(cell.value, "float64")
        valid = cell.valid
        if element == "float32":
            # What float32 cannot hold is not finite there.
            valid = self._both(valid, self._within(value, FLOAT32_MAX))
        if valid is not None:
            value = self._to.add("Where", valid, value, self._literal("float64", np.nan))
        return self._to.cast(value, "float32") if element == "float32" else value

    def _cell(self, node: Node) -> Cell:
        known = self._written.get(id(node))
        if known is None:
            known = (node, self._rule(node, [self._cell(each) for each in node.args]))
            self._written[id(node)] = known
        return known[1]

    def _rule(self, node: Node, args: Sequence[Cell]) -> Cell:
        if node.op in ARITHMETIC:
            return self._arithmetic(node, args)
        if node.op in COMPARISONS or node.op == "unequal":
            return self._compared(node, args)
        if node.op in PLAIN:
            return Cell(self._to.add(PLAIN[node.op], args[0].value), args[0].valid)
        return self._RULES[node.op](self, node, *args)

    # --- leaves ---

    def _column(self, node: Node) -> Cell:
        value, element = self._column_of(str(node.value))
        if node.type == "float64":
            value = self._to.cast(value, "float64") if element == "float32" else value
            return Cell(value, self._within(value, FLOAT64_MAX))
        return Cell(self._to.cast(value, "int64") if element == "int32" else value)

    def _constant(self, node: Node) -> Cell:
        return Cell(self._literal(node.type, node.value))

    def _absent(self, node: Node) -> Cell:
        return Cell(self._null(node), self._literal("bool", value=False))

    # --- numbers ---

    def _arithmetic(self, node: Node, args: Sequence[Cell]) -> Cell:
        operator, values = ARITHMETIC[node.op], [each.value for each in args]
        result, valid = self._to.add(operator, *values), self._all(args)
        if node.type != "int64":
            return Cell(result, valid)
        # What overflowed is a multiple of 2^64 away from what float64 says.
        roughly = self._to.add(operator, *(self._to.cast(each, "float64") for each in values))
        off = self._to.add("Abs", self._to.add("Sub", self._to.cast(result, "float64"), roughly))
        fits = self._to.add("Less", off, self._literal("float64", INT64_END))
        return Cell(result, self._both(valid, fits))

    def _divide(self, _: Node, left: Cell, right: Cell) -> Cell:
        return Cell(self._to.add("Div", left.value, right.value), self._all([left, right]))

    def _remainder(self, _: Node, left: Cell, right: Cell) -> Cell:
        """With the sign of the dividend; no division by 0, nor by -1, which overflows.

        Nothing but itself can be divided by the lowest number, which has no size.
        """
        one, zero = self._literal("int64", 1), self._literal("int64", 0)
        size = self._to.add("Abs", right.value)
        divisor = self._to.add("Where", self._to.add("Greater", size, one), size, one)
        positive = self._to.add("Mod", left.value, divisor)
        flips = self._to.add(
            "And",
            self._to.add("Less", left.value, zero),
            self._to.add("Greater", positive, zero),
        )
        value = self._to.add("Where", flips, self._to.add("Sub", positive, divisor), positive)
        lowest = self._to.add("Equal", right.value, self._literal("int64", INT64_MIN))
        same = self._to.add("Equal", left.value, right.value)
        rest = self._to.add("Where", same, zero, left.value)
        value = self._to.add("Where", lowest, rest, value)
        divides = self._to.add("Not", self._to.add("Equal", right.value, zero))
        return Cell(value, self._both(self._all([left, right]), divides))

    def _finite(self, _: Node, number: Cell) -> Cell:
        return Cell(number.value, self._both(number.valid, self._within(number.value, FLOAT64_MAX)))

    def _round(self, _: Node, number: Cell) -> Cell:
        """Half away from zero: ONNX's own Round goes to the even one."""
        size = self._to.add("Abs", number.value)
        whole = self._to.add("Floor", size)
        half = self._to.add(
            "GreaterOrEqual", self._to.add("Sub", size, whole), self._literal("float64", 0.5)
        )
        up = self._to.add("Add", whole, self._to.cast(half, "float64"))
        return Cell(self._to.add("Mul", up, self._to.add("Sign", number.value)), number.valid)

    def _cast(self, node: Node, value: Cell) -> Cell:
        cast = self._to.cast(value.value, "int64" if node.type == "int64" else "float64")
        if (node.args[0].type, node.type) != ("float64", "int64"):
            return Cell(cast, value.valid)
        fits = self._to.add(
            "And",
            self._to.add("GreaterOrEqual", value.value, self._literal("float64", -INT64_END)),
            self._to.add("Less", value.value, self._literal("float64", INT64_END)),
        )
        return Cell(cast, self._both(value.valid, fits))

    # --- conditions ---

    def _compared(self, node: Node, args: Sequence[Cell]) -> Cell:
        operator = COMPARISONS.get(node.op, "Equal")
        value = self._to.add(operator, args[0].value, args[1].value)
        value = self._to.add("Not", value) if node.op == "unequal" else value
        return Cell(value, self._all(args))

    def _and(self, _: Node, left: Cell, right: Cell) -> Cell:
        return self._connected("And", left, right, decides=False)

    def _or(self, _: Node, left: Cell, right: Cell) -> Cell:
        return self._connected("Or", left, right, decides=True)

    def _connected(self, operator: str, left: Cell, right: Cell, *, decides: bool) -> Cell:
        """Three-valued: a side that decides by itself makes the other one's null count for nothing.

        Under a null both sides' bools are made what decides nothing, so that they cannot.
        """
        sides = [self._or_else(each, value=not decides) for each in (left, right)]
        value = self._to.add(operator, *sides)
        valid = self._all([left, right])
        if valid is None:
            return Cell(value)
        decided = value if decides else self._to.add("Not", value)
        return Cell(value, self._to.add("Or", valid, decided))

    def _not(self, _: Node, value: Cell) -> Cell:
        return Cell(self._to.add("Not", value.value), value.valid)

    def _is_null(self, _: Node, value: Cell) -> Cell:
        # Of what is never null it is false, in as many rows as that has.
        never = self._to.add("Not", self._to.add("Equal", value.value, value.value))
        if value.valid is None:
            return Cell(never)
        return Cell(self._to.add("Or", never, self._to.add("Not", value.valid)))

    def _in(self, node: Node, value: Cell) -> Cell:
        type_ = node.args[0].type
        given = node.value if isinstance(node.value, tuple) else ()
        equal = [self._to.add("Equal", value.value, self._literal(type_, each)) for each in given]
        return Cell(reduce(lambda one, other: self._to.add("Or", one, other), equal), value.valid)

    # --- choices ---

    def _case(self, node: Node, *args: Cell) -> Cell:
        result = args[-1]
        for condition, chosen in reversed([*zip(args[:-1:2], args[1::2], strict=True)]):
            holds = self._or_else(condition, value=False)
            result = self._chosen(holds, chosen, result, node.type)
        return result

    def _coalesce(self, node: Node, *args: Cell) -> Cell:
        result = args[-1]
        for each in reversed(args[:-1]):
            result = self._chosen(self._valid(each), each, result, node.type)
        return result

    def _least(self, node: Node, *args: Cell) -> Cell:
        return self._extreme("Less", node, args)

    def _greatest(self, node: Node, *args: Cell) -> Cell:
        return self._extreme("Greater", node, args)

    def _extreme(self, operator: str, node: Node, args: Sequence[Cell]) -> Cell:
        result = args[0]
        for each in args[1:]:
            better = self._to.add(operator, each.value, result.value)
            if result.valid is not None:
                better = self._to.add("Or", better, self._to.add("Not", result.valid))
            takes = self._to.add("And", self._valid(each), better)
            value = self._where(takes, each.value, result.value, node.type)
            known = each.valid is None or result.valid is None
            valid = None if known else self._to.add("Or", self._valid(each), self._valid(result))
            result = Cell(value, valid)
        return result

    # --- parts ---

    def _chosen(self, holds: str, one: Cell, other: Cell, type_: str) -> Cell:
        value = self._where(holds, one.value, other.value, type_)
        if one.valid is None and other.valid is None:
            return Cell(value)
        return Cell(value, self._where(holds, self._valid(one), self._valid(other), "bool"))

    def _where(self, holds: str, one: str, other: str, type_: str) -> str:
        """ONNX Runtime chooses among all types but bools."""
        if type_ != "bool":
            return self._to.add("Where", holds, one, other)
        taken = self._to.add("And", holds, one)
        left = self._to.add("And", self._to.add("Not", holds), other)
        return self._to.add("Or", taken, left)

    def _or_else(self, condition: Cell, *, value: bool) -> str:
        """The bools, with this one in place of null."""
        if condition.valid is None:
            return condition.value
        if value:
            return self._to.add("Or", condition.value, self._to.add("Not", condition.valid))
        return self._to.add("And", condition.value, condition.valid)

    def _within(self, number: str, most: float) -> str:
        """Where a number is finite: NaN is below nothing."""
        return self._to.add(
            "LessOrEqual", self._to.add("Abs", number), self._literal("float64", most)
        )

    def _all(self, args: Sequence[Cell]) -> str | None:
        return reduce(self._both, (each.valid for each in args))

    def _both(self, one: str | None, other: str | None) -> str | None:
        if one is None or other is None:
            return one or other
        return one if one == other else self._to.add("And", one, other)

    def _valid(self, cell: Cell) -> str:
        return cell.valid or self._literal("bool", value=True)

    def _null(self, node: Node) -> str:
        return self._literal(node.type, NULLS[node.type])

    def _literal(self, type_: str, value: object) -> str:
        return self._to.constant(np.array([[value]], dtype=ARRAY_TYPES[type_]))

    _RULES: ClassVar[dict[str, Callable[..., Cell]]] = {
        "column": _column,
        "literal": _constant,
        "null": _absent,
        "divide": _divide,
        "remainder": _remainder,
        "finite": _finite,
        "round": _round,
        "cast": _cast,
        "and": _and,
        "or": _or,
        "not": _not,
        "is_null": _is_null,
        "in": _in,
        "case": _case,
        "coalesce": _coalesce,
        "least": _least,
        "greatest": _greatest,
    }

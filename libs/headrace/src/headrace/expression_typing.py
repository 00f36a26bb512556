# SPDX-License-Identifier: Apache-2.0
"""How the types of an expression's parts fit together, and how a misfit is told.

Of numbers of two types the int64 becomes float64; nothing else is cast unless the text says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NoReturn, cast

from sqlglot import exp

from headrace.expression import ColumnType, Node

NUMBERS = ("int64", "float64")
INT64_MAX = 2**63 - 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
TYPE_BY_SQL: dict[exp.DType, ColumnType] = {
    exp.DType.BIGINT: "int64",
    exp.DType.DOUBLE: "float64",
    exp.DType.TEXT: "string",
    exp.DType.VARCHAR: "string",
    exp.DType.BOOLEAN: "bool",
    exp.DType.TIMESTAMP: "timestamp",
    exp.DType.TIMESTAMPNTZ: "timestamp",
    exp.DType.TIMESTAMPTZ: "timestamp",
}
# Arguments of sqlglot's nodes that say how another dialect would see them.
FLAGS = frozenset({"safe", "coalesce", "typed", "ignore_nulls"})


class Refused(Exception):
    """What is wrong at which node of sqlglot's tree."""

    def __init__(self, problem: str, at: exp.Expr | None) -> None:
        super().__init__(problem)
        self.problem, self.at = problem, at


def settled(node: Node) -> Node:
    """The node, null where it is not finite.

    IEEE arithmetic never makes a finite number of one that is not, but by dividing by it, so one
    check at the end will do.
    """
    return Node("finite", "float64", (node,)) if _perhaps_infinite(node) else node


def _perhaps_infinite(node: Node) -> bool:
    if node.type != "float64":
        return False
    if node.op in ("negate", "abs"):
        return _perhaps_infinite(node.args[0])
    if node.op == "cast":
        return node.args[0].type == "string"
    return node.op in ("add", "subtract", "multiply", "divide", "exp")


def number(node: Node, at: exp.Expr) -> Node:
    node = concrete(node, "int64")
    if node.type not in NUMBERS:
        refuse(
            f"{shown(at)} needs numbers, and one is of type {node.type}; {instead(node.type)}", at
        )
    return node


def concrete(node: Node, type_: ColumnType) -> Node:
    """A bare NULL takes the type that is asked for."""
    return Node("null", type_) if node.op == "null" else node


def as_float(node: Node) -> Node:
    if node.op in ("null", "literal") and node.type != "float64":
        value = None if node.op == "null" else float(cast(int, node.value))
        return Node(node.op, "float64", value=value)
    return node if node.type == "float64" else Node("cast", "float64", (node,))


def alike(left: Node, right: Node) -> tuple[Node, Node]:
    """Both of one type: a bare NULL takes the other's, an int64 beside a float64 becomes one."""
    if left.op == "null":
        left = Node("null", right.type)
    if right.op == "null":
        right = Node("null", left.type)
    if left.type != right.type and {left.type, right.type} == set(NUMBERS):
        return as_float(left), as_float(right)
    return left, right


def all_alike(nodes: Sequence[Node], at: exp.Expr) -> list[Node]:
    types = sorted({node.type for node in nodes if node.op != "null"})
    if types == ["float64", "int64"]:
        return [as_float(node) for node in nodes]
    if len(types) > 1:
        refuse(f"{shown(at)} mixes {' and '.join(types)}; CAST to one type", at)
    return [concrete(node, types[0] if types else "bool") for node in nodes]


def typed(node: Node, type_: ColumnType, at: exp.Expr, what: str) -> Node:
    node = concrete(node, type_)
    if node.type != type_:
        refuse(f"{shown(at)} is of type {node.type}, {what} is needed; {instead(node.type)}", at)
    return node


def compared(op: str, left: Node, right: Node, at: exp.Expr) -> Node:
    left, right = alike(left, right)
    if left.type != right.type:
        kinds = f"{left.type} with {right.type}"
        refuse(f"{shown(at)} compares {kinds}; {instead(left.type, right.type)}", at)
    if left.type == "bool" and op not in ("equal", "unequal"):
        refuse(f"{shown(at)}: bools have no order; use =, <>, AND, OR, NOT", at)
    return Node(op, "bool", (left, right))


def moment(op: str, left: Node, right: Node, at: exp.Expr) -> Node:
    """Times: their difference is int64 microseconds, which may be added and subtracted."""
    left, right = concrete(left, "int64"), concrete(right, "int64")
    taken: dict[tuple[str, str, str], ColumnType] = {
        ("subtract", "timestamp", "timestamp"): "int64",
        ("subtract", "timestamp", "int64"): "timestamp",
        ("add", "timestamp", "int64"): "timestamp",
        ("add", "int64", "timestamp"): "timestamp",
    }
    result = taken.get((op, left.type, right.type))
    if result is None:
        refuse(f"{shown(at)}: times are subtracted, or moved by an int64 of microseconds", at)
    return Node(op, result, (left, right))


def number_literal(text: str, at: exp.Expr) -> Node:
    if re.fullmatch(r"-?\d+", text):
        if not -INT64_MAX - 1 <= int(text) <= INT64_MAX:
            refuse(f"{text} does not fit int64; write {text}.0 for a float64", at)
        return Node("literal", "int64", value=int(text))
    try:
        value = float(text)
    except ValueError:
        refuse(f"{text} is no number", at)
    if not math.isfinite(value):
        refuse(f"{text} does not fit float64", at)
    return Node("literal", "float64", value=value)


def microseconds(text: str, at: exp.Expr) -> int:
    try:
        if not TIME.fullmatch(text):
            raise ValueError
        return (datetime.fromisoformat(text.upper()) - EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        refuse(f"'{text[:40]}' is no time; write '2013-01-31T09:15:00Z', with a zone", at)


def whole_argument(at: exp.Expr | None, least: int, most: int, default: int | None = None) -> int:
    if at is None and default is not None:
        return default
    text = str(at.this) if isinstance(at, exp.Literal) and not at.args.get("is_string") else ""
    if not text.isdecimal() or not least <= int(text) <= most:
        refuse(f"{shown(at)}: a whole number from {least} to {most} is needed here", at)
    return int(text)


def type_of(at: exp.Cast) -> ColumnType:
    to = at.to
    if to.this == exp.DType.USERDEFINED and str(to.args.get("kind")).lower() == "float64":
        return "float64"
    found = None if to.expressions else TYPE_BY_SQL.get(to.this)
    if found is None:
        refuse(f"{shown(to)} is no type; string, int64, float64, bool, timestamp are", at)
    return found


def only(at: exp.Expr, *names: str) -> None:
    """Refuses what a node says beyond these arguments, such as TRIM's BOTH."""
    more = [name for name, value in at.args.items() if value and name not in {*names, *FLAGS}]
    if more:
        refuse(f"{shown(at)}: this form is not part of the language", at)


def instead(*types: str) -> str:
    if "string" in types:
        return "CAST the text, as in CAST(x AS float64), or put a text in ' '"
    if "timestamp" in types:
        return "write TIMESTAMP '2013-01-31T09:15:00Z' or CAST(x AS int64), microseconds"
    if "bool" in types:
        return "write CASE WHEN x THEN 1 ELSE 0 END"
    return "write a comparison such as x > 0, or CAST(x AS int64)"


def position(at: exp.Expr | None) -> int:
    """Where the first token of a node stands, from 1: sqlglot notes it at the leaves."""
    starts = [node.meta["start"] for node in (at.walk() if at else ()) if "start" in node.meta]
    return min(starts, default=0) + 1


def shown(at: exp.Expr | None) -> str:
    text = "nothing" if at is None else at.sql(dialect="duckdb")
    return text if len(text) <= 80 else text[:77] + "..."


def refuse(problem: str, at: exp.Expr | None) -> NoReturn:
    raise Refused(problem, at)

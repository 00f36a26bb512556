# SPDX-License-Identifier: Apache-2.0
"""The one expression language: derived columns, cleansing, row rules, filters of views, backfills.

A closed subset of SQL's scalar expressions; docs/expressions.md says what each means. A text
becomes a small tree of our own, typed and bounded, in which every implicit step (a cast, a check
that a number is finite) is a node. Whoever compiles it translates node by node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

ColumnType = Literal["string", "int64", "float64", "bool", "timestamp"]

TEXT_CHARACTERS_MAX = 4_096
DEPTH_MAX = 200
# A node that a compiler writes twice counts twice with all below it, so this bounds what comes out.
NODES_MAX = 2_000

# What `TRIM` and a column's `trim` take off both ends: the blanks of Unicode and of Python.
BLANKS = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())

# A number as text: nothing else is one, so that no engine's own taste counts.
NUMBER_TEXT = {
    "int64": r"\A-?[0-9]{1,19}\z",
    "float64": r"\A-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?\z",
}
INTEGER = ("int64", "timestamp")


@dataclass(frozen=True, slots=True)
class Node:
    """One typed step. `value`: the literal, a column's name, a pattern, or the texts of a list.

    `op` is one of `OPERATIONS`. A timestamp is a whole number of microseconds since the epoch.
    """

    op: str
    type: ColumnType
    args: tuple[Node, ...] = ()
    value: object = None

    def columns(self) -> frozenset[str]:
        """The columns read here or below."""
        if self.op == "column":
            return frozenset([str(self.value)])
        return frozenset[str]().union(*(each.columns() for each in self.args))


# Operations by name; each takes arguments of the types that the checker made sure of.
#   add subtract multiply negate abs: of float64 as IEEE says, of int64 null when it overflows
#   divide: float64, IEEE; remainder: int64, sign of the dividend, null by 0
#   finite: the number, or null when it is not finite; sqrt, ln: only met inside their domain
#   round: half away from zero, of float64; cast: from the argument's type to the node's
#   case: condition, result, condition, result, ..., else; in, like: against `value`
#   substring: `value` is (start from 1, length or None)
OPERATIONS = frozenset({
    "column", "literal", "null", "add", "subtract", "multiply", "negate", "abs", "divide",
    "remainder", "finite", "equal", "unequal", "less", "less_equal", "greater", "greater_equal",
    "and", "or", "not", "is_null", "in", "like", "case", "coalesce", "least", "greatest", "floor",
    "ceil", "round", "sqrt", "ln", "exp", "lower", "upper", "trim", "length", "substring", "concat",
    "cast",
})  # fmt: skip


@dataclass(frozen=True)
class Expression:
    """A checked expression: its text, the columns it reads, and the type of its value."""

    text: str
    tree: Node = field(repr=False)

    @property
    def type(self) -> ColumnType:
        return self.tree.type

    @cached_property
    def columns(self) -> frozenset[str]:
        return self.tree.columns()


def parse_expression(text: str, types: Mapping[str, str]) -> Expression:
    """The expression over columns of these types, checked.

    `types`: the contract's type by column. Raises Invalid BAD_DEFINITION, whose metadata hold the
    `expression`, the `position` of the fault (from 1) and the `problem`, with what to do.
    """
    from headrace.expression_check import check  # sqlglot costs 0.3 s: only those who parse pay

    return Expression(text, check(text, types))

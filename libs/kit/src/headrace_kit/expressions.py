# SPDX-License-Identifier: Apache-2.0
"""Expressions as polars, node by node.

The checker has put every implicit step into the tree, so nothing is decided here: each operation
has one spelling. docs/expressions.md says what they mean, and `tests/test_expressions.py` holds
polars and the SQL of `headrace.expression_sql` to the same answers.
"""

from __future__ import annotations

import functools
import operator
import re
import string
from collections.abc import Callable
from typing import Any, cast

import polars as pl

from headrace.expression import BLANKS, INTEGER, NUMBER_TEXT, Expression, Node

DTYPE_BY_TYPE: dict[str, pl.DataType] = {
    "string": pl.String(),
    "int64": pl.Int64(),
    "float64": pl.Float64(),
    "bool": pl.Boolean(),
    "timestamp": pl.Int64(),
}
ONE_ROW = pl.DataFrame({"row": [0]})
LOWER, UPPER = string.ascii_lowercase, string.ascii_uppercase


def to_polars(expression: Expression) -> pl.Expr:
    """The expression over columns of the contract's dtypes; a timestamp is Int64 microseconds."""
    return _polars(expression.tree)


def _polars(node: Node) -> pl.Expr:
    """A part without columns is worked out here: polars takes some of them for one row long."""
    whole = _POLARS[node.op](node, *(_polars(each) for each in node.args))
    if node.args and not node.columns():
        return pl.lit(ONE_ROW.select(whole).item(), dtype=DTYPE_BY_TYPE[node.type])
    return whole


def _literal(node: Node) -> pl.Expr:
    return pl.lit(node.value, dtype=DTYPE_BY_TYPE[node.type])


def _checked(operation: Callable[..., pl.Expr]) -> Callable[..., pl.Expr]:
    """Arithmetic of int64 in 128 bits: what does not fit back is null."""

    def rule(node: Node, *args: pl.Expr) -> pl.Expr:
        if node.type not in INTEGER:
            return operation(*args)
        wide = operation(*(each.cast(pl.Int128) for each in args))
        return wide.cast(pl.Int64, strict=False)

    return rule


def _plain(operation: Callable[..., pl.Expr]) -> Callable[..., pl.Expr]:
    return lambda _, *args: operation(*args)


def _compared(
    operation: Callable[..., pl.Expr], mirrored: Callable[..., pl.Expr]
) -> Callable[..., pl.Expr]:
    """A constant stands on the right: on the left of a CASE polars answers one row for all."""

    def rule(node: Node, left: pl.Expr, right: pl.Expr) -> pl.Expr:
        if not node.args[0].columns():
            return mirrored(right, left)
        return operation(left, right)

    return rule


def _divide(_: Node, left: pl.Expr, right: pl.Expr) -> pl.Expr:
    """By a column always: polars multiplies by the reciprocal of a constant, which rounds twice.

    A column is one too where all its values are alike.
    """
    return left / (pl.int_range(pl.len()) * 0.0 + right)


def _remainder(left: pl.Expr, right: pl.Expr) -> pl.Expr:
    """Of the dividend's sign; polars itself gives the divisor's."""
    return (left.abs() % right.abs()) * left.sign()


def _case(_: Node, *args: pl.Expr) -> pl.Expr:
    *pairs, default = args
    chain: Any = pl
    for condition, result in zip(pairs[::2], pairs[1::2], strict=True):
        chain = chain.when(condition).then(result)
    return cast(pl.Expr, chain.otherwise(default))


def _coalesce(_: Node, first: pl.Expr, *rest: pl.Expr) -> pl.Expr:
    """Not by polars' own: it ends at the first full argument, even if that is one value long."""
    if not rest:
        return first
    return pl.when(first.is_not_null()).then(first).otherwise(_coalesce(_, *rest))


def _cast(node: Node, value: pl.Expr) -> pl.Expr:
    if node.args[0].type == "string":
        value = value.str.extract(NUMBER_TEXT[node.type], 0)
    return value.cast(DTYPE_BY_TYPE[node.type], strict=False)


def _substring(node: Node, text: pl.Expr) -> pl.Expr:
    start, length = cast(tuple[int, int | None], node.value)
    return text.str.slice(start - 1, length)


def _like(node: Node, text: pl.Expr) -> pl.Expr:
    signs = {"%": ".*", "_": "."}
    pattern = "".join(signs.get(each) or re.escape(each) for each in str(node.value))
    return text.str.contains(rf"(?s)\A{pattern}\z")


def _finite(_: Node, number: pl.Expr) -> pl.Expr:
    return pl.when(number.is_finite()).then(number)


_POLARS: dict[str, Callable[..., pl.Expr]] = {
    "column": lambda node: pl.col(node.value),
    "literal": _literal,
    "null": _literal,
    "add": _checked(operator.add),
    "subtract": _checked(operator.sub),
    "multiply": _checked(operator.mul),
    "negate": _checked(lambda number: 0 - number),  # polars negates no Int128
    "abs": _checked(pl.Expr.abs),
    "divide": _divide,
    "remainder": _checked(_remainder),
    "finite": _finite,
    "equal": _compared(operator.eq, operator.eq),
    "unequal": _compared(operator.ne, operator.ne),
    "less": _compared(operator.lt, operator.gt),
    "less_equal": _compared(operator.le, operator.ge),
    "greater": _compared(operator.gt, operator.lt),
    "greater_equal": _compared(operator.ge, operator.le),
    "and": _compared(operator.and_, operator.and_),
    "or": _compared(operator.or_, operator.or_),
    "not": _plain(operator.invert),
    "is_null": _plain(pl.Expr.is_null),
    "in": lambda node, value: value.is_in(
        pl.lit(pl.Series(node.value, dtype=DTYPE_BY_TYPE[node.args[0].type])).implode()
    ),
    "like": _like,
    "case": _case,
    "coalesce": _coalesce,
    "least": _plain(pl.min_horizontal),
    "greatest": _plain(pl.max_horizontal),
    "floor": _plain(pl.Expr.floor),
    "ceil": _plain(pl.Expr.ceil),
    "round": lambda _, number: number.round(0, mode="half_away_from_zero"),
    "sqrt": _plain(pl.Expr.sqrt),
    "ln": _plain(pl.Expr.log),
    "exp": _plain(pl.Expr.exp),
    "lower": lambda _, text: text.str.replace_many(list(UPPER), list(LOWER)),
    "upper": lambda _, text: text.str.replace_many(list(LOWER), list(UPPER)),
    "trim": lambda _, text: text.str.strip_chars(BLANKS),
    "length": lambda _, text: text.str.len_chars().cast(pl.Int64),
    "substring": _substring,
    "concat": lambda _, *texts: functools.reduce(operator.add, texts),
    "cast": _cast,
}

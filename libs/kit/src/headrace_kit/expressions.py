# SPDX-License-Identifier: Apache-2.0
"""Expressions as polars and as SQL: the same answers, the same types, node by node.

The checker has put every implicit step into the tree, so nothing is decided here: each operation
has one spelling for each engine. docs/expressions.md says what they mean, and
`tests/test_expressions.py` holds polars and DuckDB to the same answers.
"""

from __future__ import annotations

import functools
import operator
import re
import string
from collections.abc import Callable
from typing import Any, Literal, cast

import polars as pl

from headrace.expression import BLANKS, Expression, Node

Dialect = Literal["duckdb", "spark"]
DTYPE_BY_TYPE: dict[str, pl.DataType] = {
    "string": pl.String(),
    "int64": pl.Int64(),
    "float64": pl.Float64(),
    "bool": pl.Boolean(),
    "timestamp": pl.Int64(),
}
# A number as text: nothing else is one, so that no engine's own taste counts.
NUMBER_TEXT = {
    "int64": r"\A-?[0-9]{1,19}\z",
    "float64": r"\A-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?\z",
}
LOWER, UPPER = string.ascii_lowercase, string.ascii_uppercase
INTEGER = ("int64", "timestamp")


def to_polars(expression: Expression) -> pl.Expr:
    """The expression over columns of the contract's dtypes; a timestamp is Int64 microseconds."""
    return _polars(expression.tree)


def to_sql(expression: Expression, dialect: Dialect) -> str:
    """The expression in SQL; a timestamp is BIGINT microseconds, names are quoted.

    For Spark in either ANSI mode.
    """
    return _Sql(dialect).text(expression.tree)


def _polars(node: Node) -> pl.Expr:
    return _POLARS[node.op](node, *(_polars(each) for each in node.args))


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


def _divide(node: Node, left: pl.Expr, right: pl.Expr) -> pl.Expr:
    """By a column always: polars multiplies by the reciprocal of a constant, which rounds twice."""
    if not node.args[1].columns():
        right = pl.int_range(pl.len()) * 0.0 + right
    return left / right


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


class _Sql:
    """One dialect's spelling; every answer is in parentheses or a call."""

    def __init__(self, dialect: Dialect) -> None:
        self._spark = dialect == "spark"
        self._types = {
            "string": "STRING" if self._spark else "VARCHAR",
            "int64": "BIGINT",
            "float64": "DOUBLE",
            "bool": "BOOLEAN",
            "timestamp": "BIGINT",
        }

    def text(self, node: Node) -> str:
        args = [self.text(each) for each in node.args]
        if infix := _INFIX.get(node.op):
            return f"({args[0]} {infix} {args[1]})"
        if rule := getattr(self, f"_{node.op}", None):
            return cast(str, rule(node, *args))
        return f"{node.op}({', '.join(args)})"

    def _column(self, node: Node) -> str:
        quote = "`" if self._spark else '"'
        return f"{quote}{node.value}{quote}"

    def _literal(self, node: Node) -> str:
        return self._constant(node.type, node.value)

    def _null(self, node: Node) -> str:
        return f"CAST(NULL AS {self._types[node.type]})"

    def _constant(self, type_: str, value: object) -> str:
        if type_ == "bool":
            return "TRUE" if value else "FALSE"
        if type_ == "string":
            return self._quoted(str(value))
        return f"CAST('{value!r}' AS {self._types[type_]})"

    def _quoted(self, text: str) -> str:
        text = text.replace("\\", "\\\\").replace("'", "\\'") if self._spark else text
        return f"'{text}'" if self._spark else "'{}'".format(text.replace("'", "''"))

    def _add(self, node: Node, left: str, right: str) -> str:
        return self._arithmetic(node, "+", "try_add", left, right)

    def _subtract(self, node: Node, left: str, right: str) -> str:
        return self._arithmetic(node, "-", "try_subtract", left, right)

    def _multiply(self, node: Node, left: str, right: str) -> str:
        return self._arithmetic(node, "*", "try_multiply", left, right)

    def _arithmetic(self, node: Node, sign: str, call: str, left: str, right: str) -> str:
        if node.type not in INTEGER:
            return f"({left} {sign} {right})"
        if self._spark:
            return f"{call}({left}, {right})"
        return self._narrow(f"CAST({left} AS HUGEINT) {sign} CAST({right} AS HUGEINT)")

    def _narrow(self, wide: str) -> str:
        """From more than 64 bits to 64, or null."""
        return f"TRY_CAST({wide} AS BIGINT)"

    def _negate(self, node: Node, value: str) -> str:
        if node.type == "float64":
            return f"(- {value})"
        return self._subtract(node, self._constant(node.type, 0), value)

    def _abs(self, node: Node, value: str) -> str:
        if node.type == "float64":
            return f"abs({value})"
        wide = "DECIMAL(20,0)" if self._spark else "HUGEINT"
        return self._narrow(f"abs(CAST({value} AS {wide}))")

    def _divide(self, _: Node, left: str, right: str) -> str:
        return f"try_divide({left}, {right})" if self._spark else f"({left} / {right})"

    def _remainder(self, _: Node, left: str, right: str) -> str:
        return f"CASE WHEN {right} <> 0 THEN {left} % {right} END"

    def _finite(self, _: Node, value: str) -> str:
        finite = f"abs({value}) <= 1.7976931348623157E308D" if self._spark else f"isfinite({value})"
        return f"CASE WHEN {finite} THEN {value} END"

    def _not(self, _: Node, value: str) -> str:
        return f"(NOT {value})"

    def _is_null(self, _: Node, value: str) -> str:
        return f"({value} IS NULL)"

    def _in(self, node: Node, value: str) -> str:
        type_, values = node.args[0].type, cast(tuple[object, ...], node.value)
        return f"({value} IN ({', '.join(self._constant(type_, each) for each in values)}))"

    def _like(self, node: Node, text: str) -> str:
        return f"({text} LIKE {self._quoted(str(node.value))})"

    def _case(self, _: Node, *args: str) -> str:
        *pairs, default = args
        whens = [f"WHEN {c} THEN {r}" for c, r in zip(pairs[::2], pairs[1::2], strict=True)]
        return f"CASE {' '.join(whens)} ELSE {default} END"

    def _floor(self, node: Node, value: str) -> str:
        if not self._spark:
            return f"{node.op}({value})"
        # Spark makes a BIGINT of it; what is this large has no fraction.
        whole = f"CAST({node.op}({value}) AS DOUBLE)"
        return f"CASE WHEN abs({value}) < 4503599627370496D THEN {whole} ELSE {value} END"

    _ceil = _floor

    def _lower(self, _: Node, text: str) -> str:
        return f"translate({text}, '{UPPER}', '{LOWER}')"

    def _upper(self, _: Node, text: str) -> str:
        return f"translate({text}, '{LOWER}', '{UPPER}')"

    def _trim(self, _: Node, text: str) -> str:
        blanks = self._quoted(BLANKS)
        return f"trim(BOTH {blanks} FROM {text})" if self._spark else f"trim({text}, {blanks})"

    def _substring(self, node: Node, text: str) -> str:
        start, length = cast(tuple[int, int | None], node.value)
        return f"substring({text}, {start}{'' if length is None else f', {length}'})"

    def _concat(self, _: Node, *texts: str) -> str:
        return f"({' || '.join(texts)})"

    def _cast(self, node: Node, value: str) -> str:
        sent, wanted = node.args[0].type, self._types[node.type]
        if sent == "float64":
            return self._whole(value)
        if sent == "string":
            group = ", 0" if self._spark else ""
            pattern = self._quoted(NUMBER_TEXT[node.type])
            return f"TRY_CAST(regexp_extract({value}, {pattern}{group}) AS {wanted})"
        return f"CAST({value} AS {wanted})"

    def _whole(self, value: str) -> str:
        if not self._spark:
            return self._narrow(f"trunc({value})")
        # Spark takes 2^63 for the largest BIGINT.
        return f"CASE WHEN {value} < 9223372036854775808D THEN {self._narrow(value)} END"


_INFIX = {
    "equal": "=",
    "unequal": "<>",
    "less": "<",
    "less_equal": "<=",
    "greater": ">",
    "greater_equal": ">=",
    "and": "AND",
    "or": "OR",
}

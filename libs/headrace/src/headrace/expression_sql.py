# SPDX-License-Identifier: Apache-2.0
"""Expressions as SQL: the same answers as in polars, the same types, node by node.

Nothing is decided here, as in `headrace_kit.expressions`: each operation has one spelling for each
engine.
"""

from __future__ import annotations

import string
from typing import Literal, cast

from headrace.expression import BLANKS, INTEGER, NUMBER_TEXT, Expression, Node

Dialect = Literal["duckdb", "spark"]
LOWER, UPPER = string.ascii_lowercase, string.ascii_uppercase


def to_sql(expression: Expression, dialect: Dialect) -> str:
    """The expression in SQL; a timestamp is BIGINT microseconds, names are quoted.

    For Spark in either ANSI mode.
    """
    return _Sql(dialect).text(expression.tree)


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
        return self._arithmetic(node, "+", left, right)

    def _subtract(self, node: Node, left: str, right: str) -> str:
        return self._arithmetic(node, "-", left, right)

    def _multiply(self, node: Node, left: str, right: str) -> str:
        return self._arithmetic(node, "*", left, right)

    def _arithmetic(self, node: Node, sign: str, left: str, right: str) -> str:
        """Of int64 in more bits. Spark regroups its own try_multiply: 0 * i * j may be null."""
        if node.type not in INTEGER:
            return f"({left} {sign} {right})"
        wide = "DECIMAL(19,0)" if self._spark else "HUGEINT"
        return self._narrow(f"CAST({left} AS {wide}) {sign} CAST({right} AS {wide})")

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

    def _length(self, _: Node, text: str) -> str:
        """Spark's own is an INT."""
        return f"CAST(length({text}) AS BIGINT)"

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

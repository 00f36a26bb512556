# SPDX-License-Identifier: Apache-2.0
"""A query that is written step by step: named SELECTs, each over those before it.

The steps are trees of sqlglot, so that every engine gets its spelling from the same tree. What
DuckDB and Spark would do differently is avoided, not translated: whole numbers are BIGINT and cut
by shifts, a quotient is one of floats, and CASE guards what one of them would refuse.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlglot import exp, select

from headrace.expression import Expression
from headrace.expression_sql import Dialect, to_sql

# The steps are written in this dialect.
WRITTEN_IN = "duckdb"


SPELLED = "expression"


class Steps:
    """Common table expressions in order; the last one said is the answer."""

    def __init__(self) -> None:
        self._named: list[tuple[str, exp.Query]] = []

    def add(self, name: str, query: exp.Query) -> str:
        """The name, to select from."""
        self._named.append((name, query))
        return name

    def sql(self, answer: exp.Query, dialect: Dialect) -> str:
        query = answer
        for name, each in self._named:
            query = query.with_(name, as_=each, dialect=WRITTEN_IN, copy=False)

        def spell(node: exp.Expr) -> exp.Expr:
            expression = node.meta.get(SPELLED) if isinstance(node, exp.Var) else None
            return node if expression is None else exp.var(to_sql(expression, dialect))

        return query.transform(spell).sql(dialect=dialect, identify=True, pretty=True)


def chosen(*columns: Any) -> exp.Select:
    """SELECT of these, texts in the dialect that the steps are written in."""
    return select(*columns, dialect=WRITTEN_IN)


def parsed(text: str) -> exp.Expr:
    return exp.maybe_parse(text, dialect=WRITTEN_IN)


def named(name: str) -> exp.Column:
    """A column that a user named."""
    return exp.column(name, quoted=True)


def spelled(expression: Expression) -> exp.Expr:
    """A leaf that `headrace.expression_sql` spells for each dialect."""
    leaf = exp.var(expression.text)
    leaf.meta[SPELLED] = expression
    return leaf


def exploded(rows: Iterable[dict[str, str]]) -> str:
    """`each`: one of these structs a row, of which every row makes as many."""
    structs = (
        "{" + ", ".join(f"'{name}': {text}" for name, text in row.items()) + "}" for row in rows
    )
    return f"UNNEST([{', '.join(structs)}]) AS each"


def by_slot(cases: dict[int, str]) -> str:
    """What each slot has in place of the others."""
    return f"CASE slot {' '.join(f'WHEN {slot} THEN {text}' for slot, text in cases.items())} END"

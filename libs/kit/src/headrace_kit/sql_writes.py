# SPDX-License-Identifier: Apache-2.0
"""Writes whose result nobody needs, sent together at the end of a transaction.

On PostgreSQL they are one statement, a `with` of them all: being a statement of its own costs the
client 0.1 ms of CPU and the server 0.04, whatever it writes (psycopg's pipeline saves the wait, not
the work). They see the tables as they were before any of them, so none may need another, and their
order is open: what must stand in order is rows of one write. SQLite has no such statement, and no
way to go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, TextClause, text

SHAPES_MAX = 128
NAMED = re.compile(r":(\w+)")


@dataclass(frozen=True, slots=True)
class Write:
    """An insert or an update, with `:name` for its values."""

    sql: str
    values: Mapping[str, Any]


def insert_of(table: str, rows: Sequence[Mapping[str, Any]]) -> Write:
    """Rows of the same columns, in this order; names come from the code alone."""
    values = {f"{name}_{n}": value for n, row in enumerate(rows) for name, value in row.items()}
    return Write(_insert(table, tuple(rows[0]), len(rows)), values)


def write_together(connection: Connection, writes: Sequence[Write]) -> None:
    """Raises what each of them would."""
    if connection.dialect.name == "postgresql" and writes:
        values = {f"{k}_w{n}": v for n, each in enumerate(writes) for k, v in each.values.items()}
        connection.execute(_together(tuple(each.sql for each in writes)), values)
        return
    for each in writes:
        connection.execute(_alone(each.sql), each.values)


@lru_cache(SHAPES_MAX)
def _insert(table: str, columns: tuple[str, ...], rows: int) -> str:
    values = (f"({', '.join(f':{each}_{n}' for each in columns)})" for n in range(rows))
    return f"insert into {table} ({', '.join(columns)}) values {', '.join(values)}"  # noqa: S608 (names of ours)


@lru_cache(SHAPES_MAX)
def _alone(sql: str) -> TextClause:
    return text(sql)


@lru_cache(SHAPES_MAX)
def _together(sqls: tuple[str, ...]) -> TextClause:
    *before, last = (NAMED.sub(rf":\1_w{n}", sql) for n, sql in enumerate(sqls))
    named = ", ".join(f"w{n} as ({sql})" for n, sql in enumerate(before))
    return text(f"with {named} {last}" if named else last)

# SPDX-License-Identifier: Apache-2.0
"""TextIndex in SQLite or PostgreSQL: passages, their vectors and how far they reach.

What lies near a vector is found by pgvector where the database has it, else by a graph in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, bindparam, select, text

from headrace_ingest.adapters import sql_tables
from headrace_ingest.adapters.graph_neighbours import GraphNeighbours
from headrace_ingest.adapters.pgvector_neighbours import PgvectorNeighbours, has_pgvector
from headrace_ingest.domain.passages import Indexed, Match, Passage, Vectors
from headrace_kit.sql import transaction, wipe_journal

# In a transaction: pgvector takes its time for each, and an erasure waits 5 s to drop what is held.
ADDED_ROWS_MAX = 100
CLAIM = text("""insert into indexed
                (stream, column_name, version, epoch, begun)
                values (:stream, :column_name, -1, 0, -1) on conflict do nothing""")
BEGIN = text("""update indexed set begun = :begun where stream = :stream
                and column_name = :column_name and epoch = :epoch and version < 0 and begun < 0""")
# What was read before the index was dropped is not added: it may hold what has to be gone.
HOLD = text("""update indexed set epoch = epoch where stream = :stream
               and column_name = :column_name and epoch = :epoch""")
SETTLE = text("""update indexed set version = :version where stream = :stream
                 and column_name = :column_name and epoch = :epoch and version < :version""")
RESET = text("""update indexed
                set version = -1, epoch = epoch + 1, begun = -1
                where stream = :stream""")
STATE = text("""select version, epoch, begun from indexed
                where stream = :stream and column_name = :column_name""")
BEGUN = text("""select min(case when version < 0 then begun else version end) from indexed
                where stream = :stream and (version >= 0 or begun >= 0)""")
ADD = text("""
    insert into passages (stream, column_name, event_id, text, vector)
    values (:stream, :column_name, :event_id, :text, :vector) on conflict do nothing""")
REMOVE = text("delete from passages where stream = :stream")
NAMED = text("select id, event_id, text from passages where id in :ids").bindparams(
    bindparam("ids", expanding=True)
)


class Neighbours(Protocol):
    """Finds passages of a place, a stream and a column, by their vectors."""

    def take_in(self, connection: Connection, place: dict[str, str]) -> None:
        """Passages of the place were stored, in this transaction."""

    def catch_up(self, place: dict[str, str], timeout_s: float) -> bool:
        """As TextIndex.catch_up."""

    def nearest(
        self, place: dict[str, str], vector: Vectors, limit: int
    ) -> Sequence[tuple[int, float]]:
        """Ids of passages and their cosine, the greatest first."""


class SqlTextIndex:
    """TextIndex on an engine of the kit whose tables are those of `sql_tables`."""

    def __init__(self, engine: Engine, dimensions: int) -> None:
        self._engine, self._dimensions = engine, dimensions

    @cached_property
    def _neighbours(self) -> Neighbours:
        """Chosen when it is first needed: the database may come after us."""
        kind = PgvectorNeighbours if has_pgvector(self._engine) else GraphNeighbours
        return kind(self._engine, self._dimensions)

    def indexed(self, stream: str, column: str) -> Indexed:
        with transaction(self._engine) as connection:
            row = connection.execute(STATE, _place(stream, column)).one_or_none()
        return Indexed() if row is None else Indexed(row.version, row.epoch, row.begun)

    def begin(self, stream: str, column: str, indexed: Indexed, version: int) -> bool:
        place = _place(stream, column)
        with transaction(self._engine) as connection:
            connection.execute(CLAIM, place)
            begun = place | {"epoch": indexed.epoch, "begun": version}
            return connection.execute(BEGIN, begun).rowcount == 1

    def absent(self, stream: str, column: str, passages: Sequence[Passage]) -> list[Passage]:
        table = sql_tables.PASSAGES.c
        ids = [each.event_id for each in passages]
        known = select(table.event_id).where(
            table.stream == stream, table.column_name == column, table.event_id.in_(ids)
        )
        with transaction(self._engine) as connection:
            there = set(connection.execute(known).scalars())
        return [each for each in passages if each.event_id not in there]

    def add(
        self,
        stream: str,
        column: str,
        passages: Sequence[Passage],
        vectors: Vectors,
        indexed: Indexed,
    ) -> None:
        place = _place(stream, column)
        rows = [place | _row(*each) for each in zip(passages, vectors, strict=True)]
        neighbours = self._neighbours
        for first in range(0, len(rows), ADDED_ROWS_MAX):
            with transaction(self._engine) as connection:
                connection.execute(CLAIM, place)
                held = connection.execute(HOLD, place | {"epoch": indexed.epoch}).rowcount == 1
                if not held:
                    return
                connection.execute(ADD, rows[first : first + ADDED_ROWS_MAX])
                neighbours.take_in(connection, place)

    def settle(self, stream: str, column: str, indexed: Indexed, version: int) -> None:
        place = _place(stream, column)
        with transaction(self._engine) as connection:
            connection.execute(CLAIM, place)
            connection.execute(SETTLE, place | {"epoch": indexed.epoch, "version": version})

    def since(self, stream: str) -> int:
        with transaction(self._engine) as connection:
            version = connection.execute(BEGUN, {"stream": stream}).scalar_one()
        return -1 if version is None else int(version)

    def drop(self, stream: str) -> None:
        with transaction(self._engine) as connection:
            connection.execute(REMOVE, {"stream": stream})
            connection.execute(RESET, {"stream": stream})

    def wipe(self) -> None:
        wipe_journal(self._engine)

    def catch_up(self, stream: str, column: str, timeout_s: float) -> bool:
        return self._neighbours.catch_up(_place(stream, column), timeout_s)

    def nearest(self, stream: str, column: str, vector: Vectors, limit: int) -> list[Match]:
        near = self._neighbours.nearest(_place(stream, column), vector, limit)
        with transaction(self._engine) as connection:
            rows = connection.execute(NAMED, {"ids": [number for number, _ in near]}).all()
        named = {row.id: row for row in rows}  # one may have gone since
        return [
            Match(named[number].event_id, named[number].text, cosine)
            for number, cosine in near
            if number in named
        ]


def _place(stream: str, column: str) -> dict[str, str]:
    return {"stream": stream, "column_name": column}


def _row(passage: Passage, vector: Vectors) -> dict[str, Any]:
    stored = vector.astype("<f2").tobytes()
    told = sql_tables.storable(passage.text)
    return {"event_id": passage.event_id, "text": told, "vector": stored}

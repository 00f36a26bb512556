# SPDX-License-Identifier: Apache-2.0
"""TextIndex in SQLite or PostgreSQL, with a graph of usearch (HNSW) in memory.

The database holds passages, vectors and how far they reach. The graph is made of the stored vectors
when it is asked, and holds nothing that is not stored.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Engine, select, text
from usearch.index import Index

from headrace_ingest.adapters import sql_tables
from headrace_ingest.domain.passages import Indexed, Match, Passage, Vectors
from headrace_kit.sql import transaction

# Neighbours that are looked at: recall against speed, see the test of recall.
EXPANSION = 128
# So many vectors are read in a transaction.
ROWS_MAX = 10_000
CLAIM = text("""insert into indexed
                (stream, column_name, version, epoch)
                values (:stream, :column_name, -1, 0) on conflict do nothing""")
# What was read before the index was dropped is not added: it may hold what has to be gone.
HOLD = text("""update indexed set epoch = epoch where stream = :stream
               and column_name = :column_name and epoch = :epoch""")
SETTLE = text("""update indexed set version = :version where stream = :stream
                 and column_name = :column_name and epoch = :epoch and version < :version""")
RESET = text("""update indexed
                set version = -1, epoch = epoch + 1
                where stream = :stream and column_name = :column_name""")
STATE = text("""select version, epoch from indexed
                where stream = :stream and column_name = :column_name""")
ADD = text("""
    insert into passages (stream, column_name, event_id, text, vector)
    values (:stream, :column_name, :event_id, :text, :vector) on conflict do nothing""")
REMOVE = text("delete from passages where stream = :stream and column_name = :column_name")
LATER = text("""select id, vector from passages where stream = :stream
                and column_name = :column_name and id > :above order by id limit :rows_max""")
NAMED = text("select event_id, text from passages where id = :id")


@dataclass(slots=True)
class _Graph:
    """The stored vectors up to an id, since the index was last dropped."""

    epoch: int
    index: Any
    last_id: int = 0

    def take(self, rows: Sequence[Any]) -> None:
        """Rows of LATER."""
        if rows:
            ids = np.array([row.id for row in rows], np.uint64)
            stored = np.frombuffer(b"".join(row.vector for row in rows), "<f2")
            self.index.add(ids, stored.reshape(len(rows), -1).astype(np.float32))
            self.last_id = int(ids[-1])


class SqlTextIndex:
    """TextIndex on an engine of the kit whose tables are those of `sql_tables`."""

    def __init__(self, engine: Engine, dimensions: int) -> None:
        self._engine, self._dimensions = engine, dimensions
        self._graphs: dict[tuple[str, str], _Graph] = {}
        self._lock = threading.Lock()

    def indexed(self, stream: str, column: str) -> Indexed:
        with transaction(self._engine) as connection:
            row = connection.execute(STATE, _place(stream, column)).one_or_none()
        return Indexed() if row is None else Indexed(row.version, row.epoch)

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
        with transaction(self._engine) as connection:
            connection.execute(CLAIM, place)
            held = connection.execute(HOLD, place | {"epoch": indexed.epoch}).rowcount == 1
            if held and rows:
                connection.execute(ADD, rows)

    def settle(self, stream: str, column: str, indexed: Indexed, version: int) -> None:
        place = _place(stream, column)
        with transaction(self._engine) as connection:
            connection.execute(CLAIM, place)
            connection.execute(SETTLE, place | {"epoch": indexed.epoch, "version": version})

    def drop(self, stream: str, column: str) -> None:
        with transaction(self._engine) as connection:
            connection.execute(REMOVE, _place(stream, column))
            connection.execute(RESET, _place(stream, column))

    def nearest(self, stream: str, column: str, vector: Vectors, limit: int) -> list[Match]:
        with self._lock:
            graph = self._graph(_place(stream, column))
            if not len(graph.index):
                return []
            found = graph.index.search(vector, limit)
        near = list(zip(found.keys.tolist(), found.distances.tolist(), strict=True))
        with transaction(self._engine) as connection:
            rows = [(connection.execute(NAMED, {"id": key}).one_or_none(), d) for key, d in near]
        return [Match(row.event_id, row.text, 1 - d) for row, d in rows if row is not None]

    def _graph(self, place: dict[str, Any]) -> _Graph:
        """The graph with all that is stored. It grows between the transactions that read it: one
        that is open keeps those who write to the database waiting."""
        key = place["stream"], place["column_name"]
        graph = self._graphs.get(key) or _Graph(0, _new_graph(self._dimensions))
        more = True
        while more:
            with transaction(self._engine) as connection:
                state = connection.execute(STATE, place).one_or_none()
                epoch = 0 if state is None else state.epoch
                if graph.epoch != epoch:
                    graph = _Graph(epoch, _new_graph(self._dimensions))
                asked = place | {"above": graph.last_id, "rows_max": ROWS_MAX}
                rows = connection.execute(LATER, asked).all()
            graph.take(rows)
            more = len(rows) == ROWS_MAX
        self._graphs[key] = graph
        return graph


def _new_graph(dimensions: int) -> Any:
    return Index(
        ndim=dimensions,
        metric="cos",
        dtype="f16",
        expansion_add=EXPANSION,
        expansion_search=EXPANSION,
    )


def _place(stream: str, column: str) -> dict[str, Any]:
    return {"stream": stream, "column_name": column}


def _row(passage: Passage, vector: Vectors) -> dict[str, Any]:
    stored = vector.astype("<f2").tobytes()
    return {"event_id": passage.event_id, "text": passage.text, "vector": stored}

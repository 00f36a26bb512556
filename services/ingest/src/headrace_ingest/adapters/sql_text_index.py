# SPDX-License-Identifier: Apache-2.0
"""TextIndex in SQLite or PostgreSQL, with a graph of usearch (HNSW) in memory.

The database holds passages, vectors and how far they reach, in one transaction. The graph is made
of the stored vectors when it is asked, and holds nothing that is not stored.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine, text
from usearch.index import Index

from headrace_ingest.domain.passages import Indexed, Match, Passage, Vectors
from headrace_kit.sql import transaction

# Neighbours that are looked at: recall against speed, see the test of recall.
EXPANSION = 128
CLAIM = text("""insert into indexed
                (stream, column_name, version, next_json, complete, epoch)
                values (:stream, :column_name, -1, '{}', false, 0) on conflict do nothing""")
# Of two writers one finds the other's offsets and adds nothing.
MOVE = text("""update indexed set version = :version, next_json = :next_json, complete = :complete
               where stream = :stream and column_name = :column_name and next_json = :before""")
RESET = text("""update indexed
                set version = -1, next_json = '{}', complete = false, epoch = epoch + 1
                where stream = :stream and column_name = :column_name""")
STATE = text("""select version, next_json, complete, epoch from indexed
                where stream = :stream and column_name = :column_name""")
ADD = text("""
    insert into passages (stream, column_name, event_id, text, vector)
    values (:stream, :column_name, :event_id, :text, :vector) on conflict do nothing""")
REMOVE = text("delete from passages where stream = :stream and column_name = :column_name")
LATER = text("""select id, vector from passages where stream = :stream
                and column_name = :column_name and id > :above order by id""")
NAMED = text("select event_id, text from passages where id = :id")


@dataclass(slots=True)
class _Graph:
    """The stored vectors up to an id, since the index was last dropped."""

    epoch: int
    index: Any
    last_id: int = 0


class SqlTextIndex:
    """TextIndex on an engine of the kit whose tables are those of `sql_tables`."""

    def __init__(self, engine: Engine, dimensions: int) -> None:
        self._engine, self._dimensions = engine, dimensions
        self._graphs: dict[tuple[str, str], _Graph] = {}
        self._lock = threading.Lock()

    def indexed(self, stream: str, column: str) -> Indexed | None:
        with transaction(self._engine) as connection:
            row = connection.execute(STATE, _place(stream, column)).one_or_none()
        if row is None or row.version < 0:
            return None
        offsets = {int(number): offset for number, offset in json.loads(row.next_json).items()}
        return Indexed(row.version, offsets, bool(row.complete))

    def add(
        self,
        stream: str,
        column: str,
        passages: Sequence[Passage],
        vectors: Vectors,
        before: Indexed,
        after: Indexed,
    ) -> None:
        place = _place(stream, column)
        moved = {
            "version": after.version,
            "next_json": _json(after),
            "complete": after.complete,
            "before": _json(before),
        }
        rows = [place | _row(*each) for each in zip(passages, vectors, strict=True)]
        with transaction(self._engine) as connection:
            connection.execute(CLAIM, place)
            if connection.execute(MOVE, place | moved).rowcount == 1 and rows:
                connection.execute(ADD, rows)

    def drop(self, stream: str, column: str) -> None:
        with transaction(self._engine) as connection:
            connection.execute(REMOVE, _place(stream, column))
            connection.execute(RESET, _place(stream, column))

    def nearest(self, stream: str, column: str, vector: Vectors, limit: int) -> list[Match]:
        with transaction(self._engine) as connection:
            with self._lock:
                graph = self._graph(connection, _place(stream, column))
                if not len(graph.index):
                    return []
                found = graph.index.search(vector, limit)
            near = zip(found.keys.tolist(), found.distances.tolist(), strict=True)
            rows = ((connection.execute(NAMED, {"id": key}).one_or_none(), d) for key, d in near)
            return [Match(row.event_id, row.text, 1 - d) for row, d in rows if row is not None]

    def _graph(self, connection: Connection, place: dict[str, Any]) -> _Graph:
        """The graph with all that is stored."""
        key = place["stream"], place["column_name"]
        state = connection.execute(STATE, place).one_or_none()
        epoch = 0 if state is None else state.epoch
        graph = self._graphs.get(key)
        if graph is None or graph.epoch != epoch:
            graph = self._graphs[key] = _Graph(epoch, _new_graph(self._dimensions))
        rows = connection.execute(LATER, place | {"above": graph.last_id}).all()
        if rows:
            ids = np.array([row.id for row in rows], np.uint64)
            stored = np.frombuffer(b"".join(row.vector for row in rows), "<f2")
            graph.index.add(ids, stored.reshape(len(rows), -1).astype(np.float32))
            graph.last_id = int(ids[-1])
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


def _json(indexed: Indexed) -> str:
    return json.dumps({str(n): o for n, o in sorted(indexed.next_by_partition.items())})


def _row(passage: Passage, vector: Vectors) -> dict[str, Any]:
    stored = vector.astype("<f2").tobytes()
    return {"event_id": passage.event_id, "text": passage.text, "vector": stored}

# SPDX-License-Identifier: Apache-2.0
"""Neighbours in a graph of usearch (HNSW) in the memory of the process.

It is made of the stored vectors when it is asked, some thousands in a transaction, so that nobody
who writes waits for it; it holds nothing that is not stored.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine, text
from usearch.index import Index

from headrace_ingest.domain.passages import Vectors
from headrace_kit.sql import transaction

# Neighbours that are looked at: recall against speed, see the test of recall.
EXPANSION = 128
VECTORS_AT_ONCE = 10_000
EPOCH = text("select epoch from indexed where stream = :stream and column_name = :column_name")
LATER = text("""select id, vector from passages where stream = :stream
                and column_name = :column_name and id > :above order by id limit :rows_max""")


@dataclass(slots=True)
class Graph:
    """The stored vectors up to an id, since the index was last dropped."""

    epoch: int
    index: Any
    last_id: int = 0

    def add(self, rows: Sequence[Any]) -> None:
        ids = np.array([row.id for row in rows], np.uint64)
        stored = np.frombuffer(b"".join(row.vector for row in rows), "<f2")
        self.index.add(ids, stored.reshape(len(rows), -1).astype(np.float32))
        self.last_id = int(ids[-1])


class GraphNeighbours:
    """Neighbours; any thread may ask."""

    def __init__(self, engine: Engine, dimensions: int) -> None:
        self._engine, self._dimensions = engine, dimensions
        self._graphs: dict[tuple[str, ...], Graph] = {}
        self._lock = threading.Lock()

    def take_in(self, connection: Connection, place: dict[str, str]) -> None:
        """Nothing: it reads what is stored when it is asked."""

    def nearest(
        self, place: dict[str, str], vector: Vectors, limit: int
    ) -> Sequence[tuple[int, float]]:
        with self._lock:
            graph = self._newest(place)
            if not len(graph.index):
                return []
            found = graph.index.search(vector, limit)
        distances = found.distances.tolist()
        return [(key, 1 - far) for key, far in zip(found.keys.tolist(), distances, strict=True)]

    def _newest(self, place: dict[str, str]) -> Graph:
        """The graph with all that is stored."""
        while True:
            graph, rows = self._later(place)
            if not rows:
                return graph
            graph.add(rows)

    def _later(self, place: dict[str, str]) -> tuple[Graph, Sequence[Any]]:
        """The graph, and what is stored behind its last id."""
        key = tuple(place.values())
        with transaction(self._engine) as connection:
            epoch = connection.execute(EPOCH, place).scalar() or 0
            graph = self._graphs.get(key)
            if graph is None or graph.epoch != epoch:
                graph = self._graphs[key] = Graph(epoch, _new_graph(self._dimensions))
            asked = place | {"above": graph.last_id, "rows_max": VECTORS_AT_ONCE}
            return graph, connection.execute(LATER, asked).all()


def _new_graph(dimensions: int) -> Any:
    return Index(
        ndim=dimensions,
        metric="cos",
        dtype="f16",
        expansion_add=EXPANSION,
        expansion_search=EXPANSION,
    )

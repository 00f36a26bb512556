# SPDX-License-Identifier: Apache-2.0
"""Neighbours in a graph of usearch (HNSW) in the memory of the process.

It is made of the stored vectors, some hundreds in a transaction, so that nobody who writes or asks
waits long for it; it holds nothing that is not stored.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from time import monotonic
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine, text
from usearch.index import Index

from headrace_ingest.domain.passages import Vectors
from headrace_kit.sql import transaction

# Neighbours that are looked at: recall against speed, see the test of recall.
EXPANSION = 128
VECTORS_AT_ONCE = 500  # a search waits for one step of the building at most
EPOCH = text("select epoch from indexed where stream = :stream and column_name = :column_name")
LATER = text("""select id, vector from passages where stream = :stream
                and column_name = :column_name and id > :above order by id limit :rows_max""")


class Graph:
    """The stored vectors up to an id, since the index was last dropped.

    Who builds it holds `building`; the lock is had for one step, so that others search meanwhile.
    """

    def __init__(self, dimensions: int) -> None:
        self.building = threading.Lock()
        self.epoch, self.last_id = 0, 0
        self._dimensions, self._index = dimensions, _new_graph(dimensions)
        self._lock = threading.Lock()

    def begin_again(self, epoch: int) -> None:
        with self._lock:
            self.epoch, self.last_id = epoch, 0
            self._index = _new_graph(self._dimensions)

    def add(self, rows: Sequence[Any]) -> None:
        ids = np.array([row.id for row in rows], np.uint64)
        stored = np.frombuffer(b"".join(row.vector for row in rows), "<f2")
        vectors = stored.reshape(len(rows), -1).astype(np.float32)
        with self._lock:
            self._index.add(ids, vectors)
            self.last_id = int(ids[-1])

    def nearest(self, vector: Vectors, limit: int) -> Sequence[tuple[int, float]]:
        with self._lock:
            if not len(self._index):
                return []
            found = self._index.search(vector, limit)
        distances = found.distances.tolist()
        return [(key, 1 - far) for key, far in zip(found.keys.tolist(), distances, strict=True)]


class GraphNeighbours:
    """Neighbours; any thread may ask."""

    def __init__(self, engine: Engine, dimensions: int) -> None:
        self._engine, self._dimensions = engine, dimensions
        self._graphs: dict[tuple[str, ...], Graph] = {}

    def take_in(self, connection: Connection, place: dict[str, str]) -> None:
        """Nothing: `catch_up` reads what is stored, by whichever process."""

    def catch_up(self, place: dict[str, str], timeout_s: float) -> bool:
        end_s = monotonic() + timeout_s
        graph = self._graph(place)
        if not graph.building.acquire(timeout=timeout_s):
            return False
        try:
            while rows := self._later(graph, place):
                if monotonic() >= end_s:
                    return False
                graph.add(rows)
            return True
        finally:
            graph.building.release()

    def nearest(
        self, place: dict[str, str], vector: Vectors, limit: int
    ) -> Sequence[tuple[int, float]]:
        return self._graph(place).nearest(vector, limit)

    def _graph(self, place: dict[str, str]) -> Graph:
        key = tuple(place.values())
        if key not in self._graphs:
            self._graphs.setdefault(key, Graph(self._dimensions))
        return self._graphs[key]

    def _later(self, graph: Graph, place: dict[str, str]) -> Sequence[Any]:
        """What is stored behind the graph's last id."""
        with transaction(self._engine) as connection:
            epoch = connection.execute(EPOCH, place).scalar() or 0
            if graph.epoch != epoch:
                graph.begin_again(epoch)
            asked = place | {"above": graph.last_id, "rows_max": VECTORS_AT_ONCE}
            return connection.execute(LATER, asked).all()


def _new_graph(dimensions: int) -> Any:
    return Index(
        ndim=dimensions,
        metric="cos",
        dtype="f16",
        expansion_add=EXPANSION,
        expansion_search=EXPANSION,
    )

# SPDX-License-Identifier: Apache-2.0
"""Neighbours in PostgreSQL, by the HNSW index of its extension pgvector (0.8 or newer).

For indexes that are larger than the memory of a process. Its table is made where the database has
the extension, or lets us add it; the index is then dropped, and built again with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from sqlalchemy import Connection, Engine, text

from headrace_ingest.domain.passages import Vectors
from headrace_kit.sql import transaction

# Neighbours that are looked at, as in the graph; where a filter leaves too few it looks on.
SEARCH = (
    text("set local hnsw.ef_search = 128"),
    text("set local hnsw.iterative_scan = strict_order"),
)
USABLE = text("""
    select exists (
      select from pg_available_extensions where name = 'vector'
      and string_to_array(coalesce(installed_version, default_version), '.')::int[] >= '{0,8}'
      and (installed_version is not null
           or (select rolsuper from pg_roles where rolname = current_user)))""")
# Of two replicas that start one makes the table, the other finds it.
LOCK = text("select pg_advisory_xact_lock(hashtextextended('headrace passage_vectors', 0))")
CREATE_EXTENSION = text("create extension if not exists vector schema public")
# The extension may lie in any schema; its names are looked up behind ours.
SEE = text("""
    select set_config('search_path',
                      current_setting('search_path') || ', ' || quote_ident(nspname), true)
    from pg_extension join pg_namespace on pg_namespace.oid = extnamespace
    where extname = 'vector'""")
MADE = text("""
    select exists (select from information_schema.columns where table_schema = current_schema()
                   and table_name = 'passage_vectors' and column_name = 'near')""")
MAKE = """
    drop table if exists passage_vectors;
    create table passage_vectors (
      passage_id bigint primary key references passages (id) on delete cascade,
      stream text not null,
      column_name text not null,
      near halfvec({dimensions}) not null);
    create index on passage_vectors (stream, column_name, passage_id);
    create index on passage_vectors using hnsw (near halfvec_cosine_ops);
    delete from passages;
    update indexed set version = -1, epoch = epoch + 1"""
LATER = text("""
    select id, vector from passages where stream = :stream and column_name = :column_name
    and id > (select coalesce(max(passage_id), 0) from passage_vectors
              where stream = :stream and column_name = :column_name)""")
ADD = text("""insert into passage_vectors (passage_id, stream, column_name, near)
              values (:passage_id, :stream, :column_name, cast(:near as halfvec))""")
NEAREST = text("""
    select passage_id, near <=> cast(:near as halfvec) as distance from passage_vectors
    where stream = :stream and column_name = :column_name
    order by near <=> cast(:near as halfvec) limit :rows_max""")


def has_pgvector(engine: Engine) -> bool:
    """Whether neighbours can be searched in this database."""
    if engine.dialect.name != "postgresql":
        return False
    with transaction(engine) as connection:
        return bool(connection.execute(USABLE).scalar())


class PgvectorNeighbours:
    """Neighbours in a database that has pgvector."""

    def __init__(self, engine: Engine, dimensions: int) -> None:
        self._engine = engine
        with transaction(engine) as connection:
            connection.execute(LOCK)
            connection.execute(CREATE_EXTENSION)
            connection.execute(SEE)
            if not connection.execute(MADE).scalar():
                connection.exec_driver_sql(MAKE.format(dimensions=dimensions))

    def take_in(self, connection: Connection, place: dict[str, str]) -> None:
        connection.execute(SEE)
        rows = connection.execute(LATER, place).all()
        vectors = [np.frombuffer(row.vector, "<f2") for row in rows]
        added = [
            place | {"passage_id": row.id, "near": _spelled(vector)}
            for row, vector in zip(rows, vectors, strict=True)
            if vector.any()  # what has no direction is near to nothing
        ]
        if added:
            connection.execute(ADD, added)

    def catch_up(self, place: dict[str, str], timeout_s: float) -> bool:
        """All is there: it is stored together with the passages."""
        return True

    def nearest(
        self, place: dict[str, str], vector: Vectors, limit: int
    ) -> Sequence[tuple[int, float]]:
        asked = place | {"near": _spelled(vector), "rows_max": limit}
        with transaction(self._engine) as connection:
            for setting in (SEE, *SEARCH):
                connection.execute(setting)
            rows = connection.execute(NEAREST, asked).all()
        return [(row.passage_id, 1 - row.distance) for row in rows if not math.isnan(row.distance)]


def _spelled(vector: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> str:
    return str(vector.tolist())

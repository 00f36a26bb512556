# SPDX-License-Identifier: Apache-2.0
"""The tables of ingest's index, alike on SQLite and PostgreSQL but for what searches in them.

Nothing in them is the truth: they are filled again from definitions, manifests and the archive.
"""

from __future__ import annotations

from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    event,
)

from headrace_kit.sql_schema import Schema

METADATA = MetaData()
ENTRIES = Table(
    "catalogue",
    METADATA,
    Column("id", Integer, primary_key=True),
    *(Column(name, Text, nullable=False) for name in ("kind", "name", "owner", "description")),
    Column("details", Text, nullable=False),
    Column("name_words", Text, nullable=False),
    Column("words", Text, nullable=False),
)
FTS5 = """create virtual table if not exists catalogue_words
          using fts5(name_words, words, prefix = '2 3', tokenize = 'unicode61')"""
WEIGHED = """(setweight(to_tsvector('simple', name_words), 'A')
              || setweight(to_tsvector('simple', words), 'D'))"""
GIN = f"create index if not exists catalogue_words on catalogue using gin ({WEIGHED})"
PASSAGES = Table(
    "passages",
    METADATA,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("stream", Text, nullable=False),
    Column("column_name", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("text", Text, nullable=False),
    # float16, little endian.
    Column("vector", LargeBinary, nullable=False),
    UniqueConstraint("stream", "column_name", "event_id"),
    sqlite_autoincrement=True,
)
INDEXED = Table(
    "indexed",
    METADATA,
    Column("stream", Text, primary_key=True),
    Column("column_name", Text, primary_key=True),
    # Of the table, all of which is in; -1: none.
    Column("version", BigInteger, nullable=False),
    # How often it was dropped.
    Column("epoch", Integer, nullable=False),
)
for statement, dialect in ((FTS5, "sqlite"), (GIN, "postgresql")):
    made = DDL(statement)  # type: ignore[no-untyped-call]
    event.listen(METADATA, "after_create", made.execute_if(dialect=dialect))
# The index is filled again from the archive.
STEPS = (("drop table indexed", "delete from passages"),)
SCHEMA = Schema(METADATA, STEPS)

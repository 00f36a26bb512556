# SPDX-License-Identifier: Apache-2.0
"""The tables of ingest's index, alike on SQLite and PostgreSQL but for what searches in them, which
the revisions alone make.

Nothing in them is the truth: they are filled again from definitions, manifests and the archive.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

from headrace_ingest.migrations import index
from headrace_kit.sql_migrations import Migrations

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
# As the index of PostgreSQL has it.
WEIGHED = """(setweight(to_tsvector('simple', name_words), 'A')
              || setweight(to_tsvector('simple', words), 'D'))"""
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
    Index("passages_in_order", "stream", "column_name", "id"),
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
    # Of the table, from which on it was built; -1: not yet.
    Column("begun", BigInteger, nullable=False, server_default="-1"),
)
# A change of a table comes with the revision that brings the old one to it, and back.
MIGRATIONS = Migrations(Path(index.__file__).parent)


def storable(given: str) -> str:
    """The text as both databases hold it: PostgreSQL takes no zero byte, which JSON may write."""
    return given.replace("\0", "\ufffd")

# SPDX-License-Identifier: Apache-2.0
"""The catalogue and the texts of columns, and what searches in the catalogue's words."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Integer, LargeBinary, Text, UniqueConstraint

revision, down_revision = "0001", None
FTS5 = """create virtual table catalogue_words
          using fts5(name_words, words, prefix = '2 3', tokenize = 'unicode61')"""
GIN = """create index catalogue_words on catalogue using gin (
             (setweight(to_tsvector('simple', name_words), 'A')
              || setweight(to_tsvector('simple', words), 'D')))"""


def upgrade() -> None:
    texts = ("kind", "name", "owner", "description", "details", "name_words", "words")
    op.create_table(
        "catalogue",
        Column("id", Integer, primary_key=True),
        *(Column(name, Text, nullable=False) for name in texts),
    )
    op.create_table(
        "passages",
        Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
        *(Column(each, Text, nullable=False) for each in ("stream", "column_name", "event_id")),
        Column("text", Text, nullable=False),
        Column("vector", LargeBinary, nullable=False),
        UniqueConstraint("stream", "column_name", "event_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "indexed",
        Column("stream", Text, primary_key=True),
        Column("column_name", Text, primary_key=True),
        Column("version", BigInteger, nullable=False),
        Column("next_json", Text, nullable=False),
        Column("complete", Boolean, nullable=False),
        Column("epoch", Integer, nullable=False),
    )
    op.execute(FTS5 if op.get_bind().dialect.name == "sqlite" else GIN)


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":  # elsewhere it is an index, which goes by itself
        op.drop_table("catalogue_words")
    for name in ("indexed", "passages", "catalogue"):
        op.drop_table(name)

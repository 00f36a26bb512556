# SPDX-License-Identifier: Apache-2.0
"""Texts are indexed by the files that came: by the version of their table, and not by offsets.

Either way the texts are read again from the archive.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Integer, Text

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    _make_again()


def downgrade() -> None:
    _make_again(
        Column("next_json", Text, nullable=False), Column("complete", Boolean, nullable=False)
    )


def _make_again(*of_before: Column[object]) -> None:
    op.drop_table("indexed")
    op.execute("delete from passages")
    op.create_table(
        "indexed",
        Column("stream", Text, primary_key=True),
        Column("column_name", Text, primary_key=True),
        Column("version", BigInteger, nullable=False),
        *of_before,
        Column("epoch", Integer, nullable=False),
    )

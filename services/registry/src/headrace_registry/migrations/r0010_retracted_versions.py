# SPDX-License-Identifier: Apache-2.0
"""Versions that were taken back: the moves of before that led to one stay, and its gate goes.

On the way down its gate has failed, which lets it serve as little, and those moves go from the
table: they stay on the topic.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKeyConstraint, Integer, Text

revision, down_revision = "0010", "0009"

VERSION_KEY = ("model", "version", "digest")
COLUMNS = "model, alias, generation, version, digest, moved_at_us"


def upgrade() -> None:
    _refer_to("versions")


def downgrade() -> None:
    op.execute("update versions set gate_state = 'failed' where gate_state = 'retracted'")
    op.execute(
        "delete from alias_moves where not exists (select 1 from passed_gates as passed"
        " where passed.model = alias_moves.model and passed.version = alias_moves.version)"
    )
    _refer_to("passed_gates")


def _refer_to(table: str) -> None:
    """Constraints have no name by which SQLite could drop them."""
    op.rename_table("alias_moves", "alias_moves_before")
    op.create_table(
        "alias_moves",
        Column("model", Text, primary_key=True),
        Column("alias", Text, primary_key=True),
        Column("generation", BigInteger, primary_key=True, autoincrement=False),
        Column("version", Integer, nullable=False),
        Column("digest", Text, nullable=False),
        Column("moved_at_us", BigInteger, nullable=False),
        ForeignKeyConstraint(VERSION_KEY, [f"{table}.{each}" for each in VERSION_KEY]),
    )
    op.execute(f"insert into alias_moves ({COLUMNS}) select {COLUMNS} from alias_moves_before")  # noqa: S608 (constants)
    op.drop_table("alias_moves_before")

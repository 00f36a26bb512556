# SPDX-License-Identifier: Apache-2.0
"""The audit. What changed before has no row: nobody had asked who did it."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, Text

revision, down_revision = "0005", "0004"


def upgrade() -> None:
    op.create_table(
        "changes",
        Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
        Column("at_us", BigInteger, nullable=False),
        *(
            Column(name, Text, nullable=False)
            for name in ("caller", "action", "model", "subject", "reason", "request_id")
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("changes_of_model", "changes", ["model", "number"])


def downgrade() -> None:
    op.drop_table("changes")

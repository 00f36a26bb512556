# SPDX-License-Identifier: Apache-2.0
"""The key of the redrive seal. On the way down it is forgotten: what was sealed is sealed no more.

Tables of before Alembic may have it already.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Integer, LargeBinary

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    op.create_table(
        "redrive_keys",
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("key", LargeBinary, nullable=False),
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_table("redrive_keys")

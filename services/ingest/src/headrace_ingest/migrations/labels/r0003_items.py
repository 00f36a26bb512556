# SPDX-License-Identifier: Apache-2.0
"""What tasks are about, as it was logged. Tasks of before have none, nor those left on the way
down."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, String

revision, down_revision = "0003", "0002"


def upgrade() -> None:
    op.create_table(
        "label_items",
        Column("task_id", String, primary_key=True),
        Column("entity", String, nullable=False),
        Column("logged", String, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("label_items")

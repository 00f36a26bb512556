# SPDX-License-Identifier: Apache-2.0
"""What was found in each file. Files of before are looked through when they are next needed."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Text

revision, down_revision = "0004", "0003"


def upgrade() -> None:
    op.create_table(
        "acceptances",
        Column("digest", Text, primary_key=True),
        Column("acceptance_json", Text, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("acceptances")

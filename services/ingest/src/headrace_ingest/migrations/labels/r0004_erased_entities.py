# SPDX-License-Identifier: Apache-2.0
"""Whose predictions are shown to nobody. On the way down it is forgotten: an erasure that is not
settled notes its entity again, what was found beside it is not."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, String

revision, down_revision = "0004", "0003"


def upgrade() -> None:
    op.create_table(
        "label_erased_entities",
        Column("entity", String, primary_key=True),
        Column("until_us", BigInteger, nullable=False),
        Column("noted_us", BigInteger, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("label_erased_entities")

# SPDX-License-Identifier: Apache-2.0
"""Training runs under leases."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, LargeBinary, String

revision, down_revision = "0001", None


def upgrade() -> None:
    op.create_table(
        "runs",
        Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
        Column("run_id", String, unique=True, nullable=False),
        Column("recipe", String, nullable=False),
        Column("known_until_us", BigInteger, nullable=False),
        Column("incident_id", String, nullable=False),
        Column("state", String, nullable=False),
        Column("progress", String, nullable=False),
        Column("reason", String, nullable=False),
        Column("trained", LargeBinary),
        Column("token", BigInteger, nullable=False),
        Column("lease_until_us", BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    op.drop_table("runs")
    op.drop_table("positions", if_exists=True)

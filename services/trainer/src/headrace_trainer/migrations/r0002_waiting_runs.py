# SPDX-License-Identifier: Apache-2.0
"""Runs that wait: until when was asked for, when the next try is, and what is said about it; and
how far requests were read.

On the way down a run that waits is tried at once. Positions stay, as tables of before Alembic may
have them beside the first ones.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, String

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    for name in ("asked_until_us", "next_try_us"):
        op.add_column("runs", Column(name, BigInteger, nullable=False, server_default="0"))
    op.add_column("runs", Column("detail", String, nullable=False, server_default=""))
    op.execute("update runs set asked_until_us = known_until_us")
    op.create_table(
        "positions",
        Column("topic", String, primary_key=True),
        Column("partition", Integer, primary_key=True, autoincrement=False),
        Column("next_offset", BigInteger, nullable=False),
        if_not_exists=True,
    )


def downgrade() -> None:
    for name in ("detail", "next_try_us", "asked_until_us"):
        op.drop_column("runs", name)

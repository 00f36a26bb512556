# SPDX-License-Identifier: Apache-2.0
"""Definitions that were taken back. On the way down their rows go: they would be applied again."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Boolean, Column, false

revision, down_revision = "0008", "0007"


def upgrade() -> None:
    with op.batch_alter_table("definitions") as table:
        table.add_column(Column("retracted", Boolean, nullable=False, server_default=false()))
    with op.batch_alter_table("definitions") as table:
        table.alter_column("retracted", server_default=None)


def downgrade() -> None:
    op.execute(
        "delete from definitions where exists (select 1 from definitions as newest"
        " where newest.kind = definitions.kind and newest.name = definitions.name"
        " and newest.retracted and newest.version = (select max(version) from definitions as each"
        " where each.kind = definitions.kind and each.name = definitions.name))"
    )
    with op.batch_alter_table("definitions") as table:
        table.drop_column("retracted")

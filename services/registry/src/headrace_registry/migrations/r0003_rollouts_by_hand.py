# SPDX-License-Identifier: Apache-2.0
"""Rollouts that somebody sets by hand: canaries that nobody judges, endpoints that are stopped.

Every canary of before was judged.
"""

from __future__ import annotations

import sqlalchemy
from alembic import op
from sqlalchemy import Boolean, Column

revision, down_revision = "0003", "0002"
ADDED = ("judged", "stopped")


def upgrade() -> None:
    with op.batch_alter_table("rollouts") as table:
        for name in ADDED:
            no = sqlalchemy.false()
            table.add_column(Column(name, Boolean, nullable=False, server_default=no))
    op.execute("update rollouts set judged = (canary_version is not null)")


def downgrade() -> None:
    with op.batch_alter_table("rollouts") as table:
        for name in ADDED:
            table.drop_column(name)

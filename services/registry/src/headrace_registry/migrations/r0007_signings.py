# SPDX-License-Identifier: Apache-2.0
"""Who vouches for a version. On the way down that is forgotten; the bundles stay as artifacts.

A gate that waits for a signature has no word before this: it reads as failed then.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Integer, Text

revision, down_revision = "0007", "0006"
ADDED = ("bundle_digest", "signer")


def upgrade() -> None:
    with op.batch_alter_table("versions") as table:
        for name in ADDED:
            table.add_column(Column(name, Text, nullable=False, server_default=""))
        table.add_column(Column("signings", Integer, nullable=False, server_default="0"))
    with op.batch_alter_table("versions") as table:
        for name in (*ADDED, "signings"):
            table.alter_column(name, server_default=None)


def downgrade() -> None:
    op.execute("update versions set gate_state = 'failed' where gate_state = 'awaits_signature'")
    with op.batch_alter_table("versions") as table:
        for name in (*ADDED, "signings"):
            table.drop_column(name)

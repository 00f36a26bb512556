# SPDX-License-Identifier: Apache-2.0
"""Versions that were trained elsewhere, with gates that ask for approval; signatures, tags, cards.

A version of before has no signature: nobody had read its file.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import Boolean, Column, Integer, Text

revision, down_revision = "0002", "0001"
ADDED = {
    "gate_state": "failed",
    "approver": "",
    "signature_json": '{"inputs": [], "outputs": []}',
    "tags_json": "{}",
    "card": "",
}


def upgrade() -> None:
    with op.batch_alter_table("versions") as table:
        table.alter_column("run_id", existing_type=Text(), nullable=True)
        for name, of_before in ADDED.items():
            table.add_column(Column(name, Text, nullable=False, server_default=of_before))
        table.add_column(Column("description_changes", Integer, nullable=False, server_default="0"))
    op.execute("update versions set gate_state = 'passed' where gate_passed")
    op.execute("update versions set run_id = null where recipe = ''")
    with op.batch_alter_table("versions") as table:
        table.drop_column("gate_passed")
        for name in (*ADDED, "description_changes"):
            table.alter_column(name, server_default=None)


def downgrade() -> None:
    """A version without a run gets a name in its place, by which the way up knows it again."""
    with op.batch_alter_table("versions") as table:
        table.add_column(Column("gate_passed", Boolean, nullable=False, server_default="0"))
    op.execute("update versions set gate_passed = (gate_state = 'passed')")
    op.execute(
        "update versions set run_id = 'registered/' || model || '/' || version where run_id is null"
    )
    with op.batch_alter_table("versions") as table:
        table.alter_column("gate_passed", server_default=None)
        table.alter_column("run_id", existing_type=Text(), nullable=False)
        for name in (*ADDED, "description_changes"):
            table.drop_column(name)

# SPDX-License-Identifier: Apache-2.0
"""Of which topic a position is. Those of before, and of behind the way down, are taken for the
topic that is there.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, String

revision, down_revision = "0005", "0004"


def upgrade() -> None:
    # The default stays: a process of before may go on beside this one, and names none.
    added = Column("topic_id", String, nullable=False, server_default="")
    op.add_column("label_positions", added)


def downgrade() -> None:
    op.drop_column("label_positions", "topic_id")

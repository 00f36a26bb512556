# SPDX-License-Identifier: Apache-2.0
"""Of which topic a position is. Those of before, and of behind the way down, are taken for the
topic that is there.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Text

revision, down_revision = "0009", "0008"


def upgrade() -> None:
    # The default stays: a replica of before may go on beside this one, and names none.
    op.add_column("positions", Column("topic_id", Text, nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("positions", "topic_id")

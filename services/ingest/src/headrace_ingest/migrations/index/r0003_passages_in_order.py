# SPDX-License-Identifier: Apache-2.0
"""The passages of a column in the order in which they came: a graph reads what is behind its last.

Without it each look at a column that grows reads all passages, of all columns, that came later.
"""

from __future__ import annotations

from alembic import op

revision, down_revision = "0003", "0002"
NAME = "passages_in_order"


def upgrade() -> None:
    op.create_index(NAME, "passages", ["stream", "column_name", "id"])


def downgrade() -> None:
    op.drop_index(NAME, "passages")

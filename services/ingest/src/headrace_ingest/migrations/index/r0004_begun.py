# SPDX-License-Identifier: Apache-2.0
"""From which version of the table an index of texts was begun.

Of one that is half built nobody noted it, so it is built again: rows that were taken out meanwhile
would stay in it.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column

revision, down_revision = "0004", "0003"


def upgrade() -> None:
    # The default stays: a process of before may go on beside this one, and names none.
    op.add_column("indexed", Column("begun", BigInteger, nullable=False, server_default="-1"))
    op.execute("""delete from passages where (stream, column_name) in
                  (select stream, column_name from indexed where version < 0)""")


def downgrade() -> None:
    op.drop_column("indexed", "begun")

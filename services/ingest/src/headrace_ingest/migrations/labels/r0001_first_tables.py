# SPDX-License-Identifier: Apache-2.0
"""Label tasks with their answers and leases, and how far predictions were read for them."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Float, Integer, String

revision, down_revision = "0001", None


def upgrade() -> None:
    op.create_table(
        "label_tasks",
        Column("task_id", String, primary_key=True),
        *(Column(name, String, nullable=False) for name in ("label", "prediction_id", "target")),
        Column("as_of_us", BigInteger, nullable=False),
        Column("version", Integer, nullable=False),
        Column("score", Float, nullable=False),
        Column("rule", String, nullable=False),
        Column("wanted", Integer, nullable=False),
        Column("state", String, nullable=False),
        Column("value", String, nullable=False),
        Column("created_us", BigInteger, nullable=False),
    )
    order = ["label", "state", "created_us", "task_id"]
    op.create_index("label_tasks_in_order", "label_tasks", order)
    op.create_table(
        "label_answers",
        Column("task_id", String, primary_key=True),
        Column("labeller", String, primary_key=True),
        Column("choice", String),
    )
    op.create_table(
        "label_leases",
        Column("task_id", String, primary_key=True),
        Column("labeller", String, primary_key=True),
        Column("until_us", BigInteger, nullable=False),
    )
    op.create_table(
        "label_positions",
        Column("topic", String, primary_key=True),
        Column("partition", Integer, primary_key=True, autoincrement=False),
        Column("next_offset", BigInteger, nullable=False),
    )


def downgrade() -> None:
    for name in ("label_positions", "label_leases", "label_answers", "label_tasks"):
        op.drop_table(name)

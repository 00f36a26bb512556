# SPDX-License-Identifier: Apache-2.0
"""Definitions, versions of training runs, gates, aliases, rollouts."""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Integer,
    Text,
    UniqueConstraint,
)

revision, down_revision = "0001", None
VERSION_KEY = ("model", "version", "digest")
GATE_KEY = [f"passed_gates.{each}" for each in VERSION_KEY]


def upgrade() -> None:
    op.create_table(
        "counters",
        Column("name", Text, primary_key=True),
        Column("value", Integer, nullable=False),
    )
    op.create_table(
        "definitions",
        Column("kind", Text, primary_key=True),
        Column("name", Text, primary_key=True),
        Column("version", Integer, primary_key=True),
        Column("application", Text, nullable=False),
        Column("spec_json", Text, nullable=False),
        Column("digest", Text, nullable=False),
    )
    op.create_table(
        "requests",
        Column("id", Text, primary_key=True),
        Column("digest", Text, nullable=False),
        Column("answer_json", Text),
    )
    op.create_table(
        "positions",
        Column("topic", Text, primary_key=True),
        Column("partition", Integer, primary_key=True, autoincrement=False),
        Column("next_offset", BigInteger, nullable=False),
    )
    _create_versions()
    _create_pointers()


def downgrade() -> None:
    for name in ("rollouts", "alias_moves", "aliases", "passed_gates", "versions", "positions",
                 "requests", "definitions", "counters"):  # fmt: skip
        op.drop_table(name)


def _create_versions() -> None:
    op.create_table(
        "versions",
        Column("model", Text, primary_key=True),
        Column("version", Integer, primary_key=True),
        Column("digest", Text, nullable=False),
        Column("run_id", Text, nullable=False, unique=True),
        Column("recipe", Text, nullable=False),
        Column("incident_id", Text, nullable=False),
        Column("trained_json", Text, nullable=False),
        Column("gate_passed", Boolean, nullable=False),
        Column("evidence_json", Text, nullable=False),
        Column("registered_at_us", BigInteger, nullable=False),
        UniqueConstraint(*VERSION_KEY),
    )
    op.create_table(
        "passed_gates",
        Column("model", Text, primary_key=True),
        Column("version", Integer, primary_key=True),
        Column("digest", Text, primary_key=True),
        ForeignKeyConstraint(VERSION_KEY, [f"versions.{each}" for each in VERSION_KEY]),
    )


def _create_pointers() -> None:
    op.create_table(
        "aliases",
        Column("model", Text, primary_key=True),
        Column("alias", Text, primary_key=True),
        Column("version", Integer, nullable=False),
        Column("digest", Text, nullable=False),
        Column("generation", BigInteger, nullable=False),
        Column("moved_at_us", BigInteger, nullable=False),
        ForeignKeyConstraint(VERSION_KEY, GATE_KEY),
    )
    op.create_table(
        "alias_moves",
        Column("model", Text, primary_key=True),
        Column("alias", Text, primary_key=True),
        Column("generation", BigInteger, primary_key=True, autoincrement=False),
        Column("version", Integer, nullable=False),
        Column("digest", Text, nullable=False),
        Column("moved_at_us", BigInteger, nullable=False),
        ForeignKeyConstraint(VERSION_KEY, GATE_KEY),
    )
    op.create_table(
        "rollouts",
        Column("endpoint", Text, primary_key=True),
        Column("model", Text, nullable=False),
        Column("generation", BigInteger, nullable=False),
        Column("champion_version", Integer, nullable=False),
        Column("champion_digest", Text, nullable=False),
        Column("canary_version", Integer),
        Column("canary_digest", Text),
        Column("canary_percent", Integer, nullable=False),
        Column("change", Text, nullable=False),
        Column("changed_at_us", BigInteger, nullable=False),
        ForeignKeyConstraint(("model", "champion_version", "champion_digest"), GATE_KEY),
        ForeignKeyConstraint(("model", "canary_version", "canary_digest"), GATE_KEY),
        CheckConstraint("(canary_version is null) = (canary_digest is null)", "canary_whole"),
    )

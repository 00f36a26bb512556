# SPDX-License-Identifier: Apache-2.0
"""The registry's tables, alike on SQLite and PostgreSQL; their constraints hold P6 and P7.

An alias or a rollout refers to a row of passed_gates by model, version and digest together, so no
statement, not even one typed by hand, can point it to a version whose gate was not passed. Each
move of an alias has a row whose key is its generation, so two moves cannot share one.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

from headrace_kit.sql_migrations import Migrations
from headrace_registry import migrations

METADATA = MetaData()
VERSION_KEY = ("model", "version", "digest")

# Row locks by name, and the last number that was given out under it.
COUNTERS = Table(
    "counters",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("value", Integer, nullable=False),
)
DEFINITIONS = Table(
    "definitions",
    METADATA,
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("application", Text, nullable=False),
    Column("spec_json", Text, nullable=False),
    Column("digest", Text, nullable=False),
    # Of the newest: it was taken back.
    Column("retracted", Boolean, nullable=False),
)
VERSIONS = Table(
    "versions",
    METADATA,
    Column("model", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("digest", Text, nullable=False),
    # Null for a version that was trained elsewhere.
    Column("run_id", Text, unique=True),
    Column("recipe", Text, nullable=False),
    Column("incident_id", Text, nullable=False),
    Column("trained_json", Text, nullable=False),
    Column("evidence_json", Text, nullable=False),
    Column("registered_at_us", BigInteger, nullable=False),
    Column("gate_state", Text, nullable=False),
    Column("approver", Text, nullable=False),
    Column("signature_json", Text, nullable=False),
    Column("tags_json", Text, nullable=False),
    Column("card", Text, nullable=False),
    Column("description_changes", Integer, nullable=False),
    # Both empty until somebody has signed it.
    Column("bundle_digest", Text, nullable=False),
    Column("signer", Text, nullable=False),
    Column("signings", Integer, nullable=False),
    UniqueConstraint(*VERSION_KEY),
)
# Lineage, found by what the versions came of; `at` of a stream is the version of its archive.
VERSION_SOURCES = Table(
    "version_sources",
    METADATA,
    *(Column(each, Text, primary_key=True) for each in ("name", "kind", "at", "model")),
    Column("version", Integer, primary_key=True, autoincrement=False),
    ForeignKeyConstraint(("model", "version"), [VERSIONS.c.model, VERSIONS.c.version]),
)
# What was found in a file when it was looked through; without a row nobody has.
ACCEPTANCES = Table(
    "acceptances",
    METADATA,
    Column("digest", Text, primary_key=True),
    Column("acceptance_json", Text, nullable=False),
)
PASSED_GATES = Table(
    "passed_gates",
    METADATA,
    Column("model", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("digest", Text, primary_key=True),
    ForeignKeyConstraint(VERSION_KEY, [VERSIONS.c[each] for each in VERSION_KEY]),
)
ALIASES = Table(
    "aliases",
    METADATA,
    Column("model", Text, primary_key=True),
    Column("alias", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("digest", Text, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("moved_at_us", BigInteger, nullable=False),
    ForeignKeyConstraint(VERSION_KEY, [PASSED_GATES.c[each] for each in VERSION_KEY]),
)
ALIAS_MOVES = Table(
    "alias_moves",
    METADATA,
    Column("model", Text, primary_key=True),
    Column("alias", Text, primary_key=True),
    Column("generation", BigInteger, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
    Column("digest", Text, nullable=False),
    Column("moved_at_us", BigInteger, nullable=False),
    # Not a passed gate: the version may have been taken back since.
    ForeignKeyConstraint(VERSION_KEY, [VERSIONS.c[each] for each in VERSION_KEY]),
)
# Numbers may have gaps, and only rise: a lock to prevent them would make all writers wait in a row.
CHANGES = Table(
    "changes",
    METADATA,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at_us", BigInteger, nullable=False),
    *(
        Column(name, Text, nullable=False)
        for name in ("caller", "action", "model", "subject", "reason", "request_id")
    ),
    Index("changes_of_model", "model", "number"),
    sqlite_autoincrement=True,
)
ROLLOUTS = Table(
    "rollouts",
    METADATA,
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
    Column("judged", Boolean, nullable=False),
    Column("stopped", Boolean, nullable=False),
    ForeignKeyConstraint(
        ("model", "champion_version", "champion_digest"),
        [PASSED_GATES.c[each] for each in VERSION_KEY],
    ),
    ForeignKeyConstraint(
        ("model", "canary_version", "canary_digest"),
        [PASSED_GATES.c[each] for each in VERSION_KEY],
    ),
    # A foreign key with a null in it is not checked: both are null, or none is.
    CheckConstraint("(canary_version is null) = (canary_digest is null)", "canary_whole"),
)
REQUESTS = Table(
    "requests",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("answer_json", Text),
)
POSITIONS = Table(
    "positions",
    METADATA,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("topic_id", Text, nullable=False, server_default=""),
)
# A change of a table comes with the revision that brings the old one to it, and back.
MIGRATIONS = Migrations(Path(migrations.__file__).parent)

# SPDX-License-Identifier: Apache-2.0
"""Lineage by what the versions came of, which until now stood in each version alone.

Graphs came later: their versions are there on a way down and up again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from alembic import op
from sqlalchemy import Column, ForeignKeyConstraint, Integer, Text, text

revision, down_revision = "0006", "0005"

GRAPH, COMPONENT = "graph", "component:"
MANIFEST_KINDS = {"training_set": "training-set", "definitions": "definitions",
                  GRAPH: "definitions", "code": "code"}  # fmt: skip
DELTA_VERSION = "delta_version:"


def upgrade() -> None:
    table = op.create_table(
        "version_sources",
        *(Column(each, Text, primary_key=True) for each in ("name", "kind", "at", "model")),
        Column("version", Integer, primary_key=True, autoincrement=False),
        ForeignKeyConstraint(("model", "version"), ("versions.model", "versions.version")),
    )
    columns = "model, version, digest, run_id, recipe, incident_id, trained_json"
    rows = op.get_bind().execute(text(f"select {columns} from versions")).all()  # noqa: S608
    for row in rows:
        sources = {*_sources(row)}
        op.bulk_insert(
            table,
            [
                {"name": name, "kind": kind, "at": at, "model": row.model, "version": row.version}
                for kind, name, at in sorted(sources)
            ],
        )


def downgrade() -> None:
    op.drop_table("version_sources")


def _sources(row: Any) -> Iterator[tuple[str, str, str]]:
    trained = json.loads(row.trained_json)
    manifest = trained.get("manifest", {})
    named = {"artifact": row.digest, "run": row.run_id,
             GRAPH if GRAPH in manifest else "recipe": row.recipe,
             "incident": row.incident_id}  # fmt: skip
    yield from ((kind, name, "") for kind, name in named.items() if name)
    yield from (("view", each.partition(":")[0], "") for each in trained.get("features", ()))
    for key, value in manifest.items():
        if key in MANIFEST_KINDS:
            yield MANIFEST_KINDS[key], value, ""
        elif key.startswith(DELTA_VERSION):
            yield "stream", key.removeprefix(DELTA_VERSION), value
        elif key.startswith(COMPONENT):
            yield "component", key.removeprefix(COMPONENT), value

# SPDX-License-Identifier: Apache-2.0
"""headrace models and promote: what was trained, and who serves."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table

from headrace.cli.connection import DEFAULT_DATA_DIR, DataDir, connect
from headrace.cli.output import out, told_errors
from headrace.registry.v1 import registry_events_pb2

_GATE = {0: "none", 1: "passed", 2: "failed"}


def models(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show a model's versions with their gates and who serves.

    headrace models delay
    """
    with told_errors():
        client = connect(data_dir)
        versions, aliases = client.versions(model), client.aliases(model)
    alias_by_version = {alias.version: alias.alias for alias in aliases}
    table = Table("version", "alias", "trained until", "AUC", "gate", "digest", title=model)
    for version in versions:
        table.add_row(*_row(version, alias_by_version.get(version.version, "")))
    out.print(table)


def promote(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    version: Annotated[int, typer.Argument(help="The version that shall serve.")],
    alias: Annotated[str, typer.Option(help="The alias to move.")] = "champion",
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Move an alias to a version by hand. The version must have passed its gate.

    headrace promote delay 2
    """
    with told_errors():
        generation = connect(data_dir).promote(model, version, alias=alias)
    out.print(f"models:/{model}@{alias} is version {version} (generation {generation})")


def _row(version: registry_events_pb2.ModelVersion, alias: str) -> tuple[str, ...]:
    trained = version.trained
    until = datetime.fromtimestamp(trained.trained_until_us / 1e6, UTC)
    auc = trained.metrics.get("auc")
    return (
        str(version.version),
        alias,
        f"{until:%Y-%m-%d %H:%M}Z",
        "" if auc is None else f"{auc:.3f}",
        _GATE[version.gate.state],
        version.digest[:12],
    )

# SPDX-License-Identifier: Apache-2.0
"""headrace train, models and promote: what was trained, and who serves."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table

from headrace.application import Recipe
from headrace.cli.connection import DEFAULT_DATA_DIR, DataDir, connect
from headrace.cli.moments import time_option, to_us
from headrace.cli.output import out, show_table, told_errors
from headrace.errors import NotFound
from headrace.registry.v1 import registry_events_pb2

VERSION_MAX = 2**31 - 1
TRAIN_DEADLINE_S = 3_600.0
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
    if not versions:
        out.print(f"No version of {model} yet: a run of its recipe makes one, see headrace train.")
        return
    table = Table("version", "alias", "trained until", "AUC", "gate", "digest", title=model)
    for version in versions:
        serving = [alias.alias for alias in aliases if alias.version == version.version]
        table.add_row(*_row(version, ", ".join(serving)))
    show_table(table)


def promote(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    version: Annotated[
        int, typer.Argument(help="The version that shall serve.", min=1, max=VERSION_MAX)
    ],
    alias: Annotated[str, typer.Option(help="The alias to move.")] = "champion",
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Move an alias to a version by hand. The version must have passed its gate.

    headrace promote delay 2
    """
    with told_errors():
        generation = connect(data_dir).promote(model, version, alias=alias)
    out.print(f"models:/{model}@{alias} is version {version} (generation {generation})")


def train(
    recipe: Annotated[str, typer.Argument(help="The recipe's name.")],
    until: Annotated[datetime | None, time_option("Use what was known then")] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Train a version by a recipe and wait for it. Passing its gate lets it serve.

    headrace train delay --until 2013-03-01T00:00:00Z
    """
    with told_errors():
        client = connect(data_dir)
        definition = client.definitions.get(("recipe", recipe))
        if not isinstance(definition, Recipe):
            raise NotFound("DEFINITION_UNKNOWN", recipe=recipe)
        run_id = client.train(recipe, known_until_us=0 if until is None else to_us(until))
        with out.status(f"{recipe}: waiting") as shown:
            client.wait_run(
                run_id,
                timeout_s=TRAIN_DEADLINE_S,
                said=lambda progress: shown.update(f"{recipe}: {progress}"),
            )
    out.print(f"Trained. Its version and gate, in a moment: headrace models {definition.model}")


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

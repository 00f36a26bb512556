# SPDX-License-Identifier: Apache-2.0
"""headrace train, runs, cancel, models and promote: what is trained, and who serves."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from headrace.application import Recipe
from headrace.cli.connection import DEFAULT_DATA_DIR, DataDir, connect
from headrace.cli.moments import minute_text, time_option, to_us
from headrace.cli.output import out, show_table, told_errors
from headrace.errors import NotFound
from headrace.registry.v1 import registry_events_pb2

VERSION_MAX = 2**31 - 1
TRAIN_DEADLINE_S = 3_600.0
_GATE = {0: "none", 1: "passed", 2: "failed"}
_STATE = {0: "", 1: "waits", 2: "is carried", 3: "completed", 4: "failed"}


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
        out.print(f"Run {run_id}. To end it: headrace cancel {run_id}")
        with out.status(f"{recipe}: waiting") as shown:
            told = _Told(lambda progress: shown.update(escape(f"{recipe}: {progress}")))
            client.wait_run(run_id, timeout_s=TRAIN_DEADLINE_S, said=told)
    out.print(f"Trained. Its version and gate, in a moment: headrace models {definition.model}")


def runs(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Show the newest training runs: how they stand, and what those wait for that do.

    headrace runs
    """
    with told_errors():
        found = connect(data_dir).runs()
    if not found:
        out.print("No run yet: headrace train RECIPE makes one.")
        return
    table = Table("run", "recipe", "known until", "state", "says")
    for run in found:
        says = f"{run.reason} {run.detail}".strip() or run.progress
        row = (run.run_id, run.recipe, minute_text(run.known_until_us), _STATE[run.state], says)
        table.add_row(*map(escape, row))
    show_table(table)


def cancel(
    run: Annotated[str, typer.Argument(help="The run's id: headrace runs.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """End a training run that waits or is carried.

    headrace cancel 4c3a8f0e-2c51-4f0e-9a51-0d3f5d2f9f3b
    """
    with told_errors():
        connect(data_dir).cancel_run(run)
    out.print(f"Run {run} is cancelled.")


class _Told:
    """Shows what a run says, and prints what it waits for once, also where nothing is shown."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show, self._printed = show, ""

    def __call__(self, progress: str) -> None:
        self._show(progress)
        waits_for = progress.partition(": ")[2] if progress.startswith("waits ") else ""
        if waits_for and waits_for != self._printed:
            self._printed = waits_for
            out.print(f"It waits: {escape(waits_for)}")


def _row(version: registry_events_pb2.ModelVersion, alias: str) -> tuple[str, ...]:
    trained = version.trained
    auc = trained.metrics.get("auc")
    return (
        str(version.version),
        alias,
        minute_text(trained.trained_until_us),
        "" if auc is None else f"{auc:.3f}",
        _GATE[version.gate.state],
        version.digest[:12],
    )

# SPDX-License-Identifier: Apache-2.0
"""headrace train, runs, cancel and promote: what is trained, and who serves."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated

import typer
from rich.table import Table

from headrace.application import Definition, Graph, Recipe
from headrace.cli.connection import DEFAULT_DATA_DIR, DataDir
from headrace.cli.moments import minute_text, time_option, to_us
from headrace.cli.output import out, show_table, told_besides, told_errors
from headrace.cli.reason import Reason
from headrace.client import Client
from headrace.connection import connect
from headrace.errors import NotFound
from headrace.model_reference import parse_reference, version_of

TRAIN_DEADLINE_S = 3_600.0
CHAMPION = "champion"
_STATE = {0: "", 1: "waits", 2: "is carried", 3: "completed", 4: "failed"}


def promote(
    model: Annotated[
        str, typer.Argument(help="The model's name, or a version: models:/NAME/7 or NAME@ALIAS.")
    ],
    version: Annotated[
        str | None, typer.Argument(help="The version that shall serve, where MODEL is a name.")
    ] = None,
    alias: Annotated[str, typer.Option(help="The alias to move.")] = "champion",
    reason: Reason = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Move an alias to a version by hand. The version must have passed its gate.

    Of the champion it is told what each endpoint serves now, and what callers by tensors must
    change where the version takes or gives others.

    headrace promote delay 2

    headrace promote models:/delay/2

    headrace promote delay@next --alias champion
    """
    with told_errors():
        named = parse_reference(model) if version is None else version_of(model, version)
        client = connect(data_dir)
        number = client.models.number(named)
        generation = client.promote(named.model, number, alias=alias, reason=reason)
        out.print(f"models:/{named.model}@{alias} is version {number} (generation {generation})")
        if alias == CHAMPION:
            _tell_endpoints(client, named.model)


def _tell_endpoints(client: Client, model: str) -> None:
    with told_besides():
        for each in client.rollouts.list():
            if each.model == model:
                out.print(f"{each.endpoint}: {each.change}")


def train(
    name: Annotated[str, typer.Argument(help="The name of the recipe or graph.")],
    until: Annotated[datetime | None, time_option("Use what was known then")] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Train a version by a recipe, or compile one of a graph, and wait for it.

    Passing its gate lets it serve. A graph takes the versions that its steps name now.

    headrace train delay --until 2013-03-01T00:00:00Z
    """
    with told_errors():
        client = connect(data_dir)
        model = _model_of(client.definitions, name)
        run_id = client.train(name, known_until_us=0 if until is None else to_us(until))
        out.print(f"Run {run_id}. To end it: headrace cancel {run_id}")
        with out.status(f"{name}: waiting") as shown:
            told = _Told(lambda progress: shown.update(out.render_str(f"{name}: {progress}")))
            client.wait_run(run_id, timeout_s=TRAIN_DEADLINE_S, said=told)
    out.print(f"Trained. Its version and gate, in a moment: headrace models show {model}")


def _model_of(definitions: Mapping[tuple[str, str], Definition], name: str) -> str:
    """Raises NotFound DEFINITION_UNKNOWN."""
    found = definitions.get(("graph", name)) or definitions.get(("recipe", name))
    if isinstance(found, Graph):
        return found.name
    if isinstance(found, Recipe):
        return found.model
    raise NotFound("DEFINITION_UNKNOWN", recipe=name)


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
        table.add_row(*row)
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
    """Shows what a run says, and prints what it waits for once, also where nothing is shown.

    Where nothing is, such as in a pipe, each step is printed as it begins.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show, self._printed = show, ""
        self._steps: set[str] = set()

    def __call__(self, progress: str) -> None:
        self._show(progress)
        if progress.startswith("waits "):
            self._tell_wait(progress.partition(": ")[2])
        elif not out.is_terminal:
            self._tell_step(progress)

    def _tell_wait(self, waits_for: str) -> None:
        if waits_for and waits_for != self._printed:
            self._printed = waits_for
            out.print(f"It waits: {waits_for}")

    def _tell_step(self, progress: str) -> None:
        step = re.sub(r"\d+", "", progress)  # how far it has come is no other step
        if step and step not in self._steps:
            self._steps.add(step)
            out.print(progress)

# SPDX-License-Identifier: Apache-2.0
"""The `headrace` command: assembles the commands; demos come from the entry points of examples."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import typer
from typer.core import TyperGroup

from headrace.cli import (
    access,
    datasets,
    definitions,
    features,
    models,
    platform,
    registry,
    rollouts,
    training,
    views,
    work,
)
from headrace.cli.corrections import corrections
from headrace.cli.dead_letters import dead_letters
from headrace.cli.erase import erase
from headrace.cli.labels import labels
from headrace.cli.lineage import lineage
from headrace.cli.materialize import materialize
from headrace.cli.search import search

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Event-driven MLOps: streams of events in, gated models out, watched and retrained.",
    epilog="Begin with: headrace up --detach, then headrace apply examples/flights",
)
COMMANDS_BY_PANEL: dict[str, tuple[Callable[..., None], ...]] = {
    "The platform on this machine": (platform.up, platform.down, platform.status, platform.doctor),
    "A platform elsewhere": (access.connect,),
    "An application": (work.apply, work.publish, work.streams, work.predict),
    "Its models": (
        training.train,
        training.runs,
        training.cancel,
        training.promote,
    ),
}
for panel, commands in COMMANDS_BY_PANEL.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)

app.add_typer(models.app, name="models", rich_help_panel="Its models")
app.add_typer(registry.app, name="registry", rich_help_panel="Its models")
app.add_typer(rollouts.app, name="rollouts", rich_help_panel="Its models")
app.command(rich_help_panel="Its models")(lineage)
app.add_typer(datasets.app, name="datasets", rich_help_panel="Its data")
app.add_typer(features.app, name="features", rich_help_panel="Its data")
app.command(rich_help_panel="Its data")(search)
app.command(rich_help_panel="Its data")(erase)
app.command(rich_help_panel="Its data")(corrections)
app.command(rich_help_panel="Its data")(materialize)


class Demos(TyperGroup):
    """Loads an example when it is asked for: that takes as long as all the other commands."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(entry_points(group="headrace.demos").names)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.list_commands(ctx):
            return None
        [found] = entry_points(group="headrace.demos", name=cmd_name)
        alone = typer.Typer(add_completion=False)
        alone.command(cmd_name)(found.load())
        return typer.main.get_command(alone)


demos = typer.Typer(
    cls=Demos, no_args_is_help=True, help="Run an example from its events to its account."
)
app.add_typer(access.tokens, name="tokens", rich_help_panel="A platform elsewhere")
app.add_typer(definitions.app, name="definitions", rich_help_panel="An application")
app.add_typer(views.app, name="views", rich_help_panel="An application")
app.add_typer(dead_letters, name="dead-letters", rich_help_panel="An application")
app.add_typer(labels, name="labels", rich_help_panel="An application")
app.add_typer(demos, name="demo", rich_help_panel="An application")

if __name__ == "__main__":
    app()

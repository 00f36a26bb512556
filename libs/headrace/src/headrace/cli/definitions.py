# SPDX-License-Identifier: Apache-2.0
"""headrace definitions: what is applied, and taking one back."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from headrace.cli.connection import DEFAULT_DATA_DIR, DataDir
from headrace.cli.output import out, show_table, told_errors
from headrace.connection import connect

app = typer.Typer(
    no_args_is_help=True, help="What is applied: streams, views, recipes, endpoints and the rest."
)


@app.command("list")
def list_definitions(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """List what is applied, of every application.

    headrace definitions list
    """
    table = Table("kind", "name", "version", "application")
    with told_errors():
        for each in connect(data_dir).applied():
            table.add_row(each.kind, each.name, str(each.version), each.application)
    show_table(table)


@app.command()
def retract(
    kind: Annotated[
        str, typer.Argument(help="stream, view, recipe, model, graph, endpoint, monitor or label.")
    ],
    name: Annotated[str, typer.Argument(help="Its name.")],
    *,
    reason: Annotated[str, typer.Option(help="Why, in one line; it is told with the change.")] = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Take a definition back: a stream is read no further, a view or an endpoint answers no more.

    What it made stays: records, features, versions of models. While other definitions need it, it
    is refused, and they are named. Applied again, it goes on with the next version.

        headrace definitions retract monitor delay --reason "the endpoint has another one"
    """
    with told_errors():
        was = connect(data_dir).retract(kind, name, reason=reason)
    out.print(f"{was.kind} {was.name} of {was.application} is taken back (version {was.version}).")

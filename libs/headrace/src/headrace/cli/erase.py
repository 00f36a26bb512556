# SPDX-License-Identifier: Apache-2.0
"""headrace erase: take an entity out of all that is kept, and tell what was trained on it."""

from __future__ import annotations

import uuid
from itertools import chain
from typing import Annotated

import typer
from rich.table import Table

from headrace.application import Definition, Endpoint, Stream
from headrace.cli.connection import DEFAULT_DATA_DIR, DataDir
from headrace.cli.output import err, out, show_table, told_errors
from headrace.client import Client
from headrace.connection import connect
from headrace.errors import NotFound


def erase(
    column: Annotated[str, typer.Argument(help="The column that names the entity.")],
    value: Annotated[str, typer.Argument(help="Its value there.")],
    request_id: Annotated[
        str | None, typer.Option(help="Of an erasure that broke off, to go on and see its report.")
    ] = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Erase an entity from every stream that has or had the column, from datasets and features.

    What happened up to now stays erased, in late copies and replays too. It cannot be undone.

    Its request id is told before anything is done: a command that was cut off goes on by it.

        headrace erase customer_id c42

        headrace erase customer_id c42 --request-id 1b4e28ba-2fa1-11d2-883f-0016d3cca427
    """
    with told_errors():
        client = connect(data_dir)
        if request_id is None:
            _check_column(client, column)
    if not yes:
        typer.confirm(f"Erase all rows with {column} = {value}, for good?", abort=True)
    with told_errors():
        named = request_id or str(uuid.uuid4())
        err.print(f"If this is cut off, repeat it with --request-id {named}")
        found = client.datasets.erase(column, value, request_id=named)
    table = Table("kept in", "rows erased")
    for stream in found.streams:
        table.add_row(f"stream {stream.stream}", f"{stream.rows:,}")
    for view in found.views:
        table.add_row(f"feature table {view.view}", f"{view.rows:,}")
        if view.published_rows:
            table.add_row(f"published rows of {view.view}", f"{view.published_rows:,}")
    for dataset in found.datasets:
        table.add_row(f"dataset {dataset.name}/{dataset.number}", f"{dataset.rows:,}")
    show_table(table)
    for view in found.views:
        if view.taken_back:
            err.print(
                f"Rows of view {view.view} stay: it is taken back, and nobody takes them out. Apply"
                " it again; this erasure goes on by itself and waits for that."
            )
    trained = Table("version trained on rows of it", "streams")
    for version in found.trained_versions:
        trained.add_row(f"models:/{version.model}/{version.version}", ", ".join(version.streams))
    show_table(trained)
    out.print(f"Erasure {found.id}; for three minutes what was on its way is looked for again.")
    out.print(
        "Training runs that read rows of it before may register versions yet: once these have"
        f" ended, the report with --request-id {named} names them too."
    )


def _check_column(client: Client, column: str) -> None:
    """Raises NotFound COLUMN_UNKNOWN, before anybody notes the id of an erasure that never was."""
    ever = chain(client.definitions.values(), client.retracted())
    if not any(_names(each, column) for each in ever):
        raise NotFound("COLUMN_UNKNOWN", column=column)


def _names(definition: Definition, column: str) -> bool:
    """A stream's rows by a column of it, or an endpoint's predictions by what it calls entities."""
    if isinstance(definition, Endpoint):
        return definition.entity_key == column
    return isinstance(definition, Stream) and column in definition.columns

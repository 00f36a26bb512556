# SPDX-License-Identifier: Apache-2.0
"""headrace erase: take an entity out of all that is kept, and tell what was trained on it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from headrace.cli.connection import DEFAULT_DATA_DIR, DataDir, connect
from headrace.cli.output import out, show_table, told_errors


def erase(
    column: Annotated[str, typer.Argument(help="The column that names the entity.")],
    value: Annotated[str, typer.Argument(help="Its value there.")],
    request_id: Annotated[
        str | None, typer.Option(help="Of an erasure that broke off, to see its report.")
    ] = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Erase an entity from every stream that has the column, and from datasets and features.

    What happened up to now stays erased, in late copies and replays too. It cannot be undone.

    headrace erase customer_id c42
    """
    if not yes:
        typer.confirm(f"Erase all rows with {column} = {value}, for good?", abort=True)
    with told_errors():
        found = connect(data_dir).datasets.erase(column, value, request_id=request_id)
    table = Table("kept in", "rows erased")
    for stream in found.streams:
        table.add_row(f"stream {stream.stream}", f"{stream.rows:,}")
    for view in found.views:
        table.add_row(f"feature table {view.view}", f"{view.rows:,}")
    for dataset in found.datasets:
        table.add_row(f"dataset {dataset.name}/{dataset.number}", f"{dataset.rows:,}")
    show_table(table)
    trained = Table("version trained on rows of it", "streams")
    for version in found.trained_versions:
        trained.add_row(f"models:/{version.model}/{version.version}", ", ".join(version.streams))
    show_table(trained)
    out.print(f"Erasure {found.id}; for three minutes what was on its way is looked for again.")

# SPDX-License-Identifier: Apache-2.0
"""headrace search: what data there are, by words."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import typer
from rich.table import Table

from headrace.cli.connection import DEFAULT_DATA_DIR, DataDir
from headrace.cli.output import show_table, told_errors
from headrace.connection import connect


def search(
    words: Annotated[list[str], typer.Argument(help="Each begins a word of what is found.")],
    kind: Annotated[
        list[str] | None,
        typer.Option(help="stream, column, view, feature, dataset or tag; may be repeated."),
    ] = None,
    limit: Annotated[int, typer.Option(help="How many are shown.", min=1, max=1_000)] = 20,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Search streams, columns, views, features, datasets and tags by name, owner and description.

    headrace search delay

    headrace search --kind column customer
    """
    table = Table("kind", "name", "owner", "description", "details")
    with told_errors():
        found = connect(data_dir).datasets.search(" ".join(words), kind or ())
        for entry in islice(found, limit):
            table.add_row(entry.kind, entry.name, entry.owner, entry.description, entry.details)
    show_table(table)

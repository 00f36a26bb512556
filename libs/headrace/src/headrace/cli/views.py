# SPDX-License-Identifier: Apache-2.0
"""headrace views: which can be answered, and a view as SQL for other engines than our own."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from headrace.application import Stream
from headrace.cli.connection import DEFAULT_DATA_DIR, DataDir
from headrace.cli.moments import time_option, to_us
from headrace.cli.output import show_table, told_errors
from headrace.connection import connect
from headrace.errors import NotFound
from headrace.feature.v1 import feature_service_pb2 as pb
from headrace.feature_view import StreamView
from headrace.loader import load_application

app = typer.Typer(
    no_args_is_help=True, help="Feature views: their state, and their SQL for other engines."
)
Folder = Annotated[Path, typer.Argument(help="The application's folder.")]
ViewName = Annotated[str, typer.Argument(help="A view with an entity.")]
KnownAsOf = Annotated[
    datetime | None,
    time_option("Nothing counts that became known later", absent="all that is there"),
]


class Dialect(StrEnum):
    duckdb = "duckdb"
    spark = "spark"


@app.command("list")
def list_views(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """List the applied views: READY to be answered, or how far each has come.

    FILLING reads the archive; files differ in size, so the share and the time left are estimates.

    headrace views list
    """
    table = Table("view", "state", "filled", "rows", "time left")
    with told_errors():
        for each in connect(data_dir).view_states():
            status = pb.ViewStatus.Name(each.status).removeprefix("VIEW_STATUS_")
            table.add_row(each.view, status, *_filled(each))
    show_table(table)


def _filled(state: pb.ViewState) -> tuple[str, ...]:
    """Share, rows and time of what is filled from the archive."""
    if not state.HasField("filling"):
        return "", "", ""
    found = state.filling
    share = found.files_done / found.files if found.files else 0.0
    files = f"{share:.0%}, {found.files_done:,} of {found.files:,} files"
    left_s = (found.files - found.files_done) / found.files_per_s if found.files_per_s else None
    left = "not known yet" if left_s is None else f"about {timedelta(seconds=round(left_s))}"
    return files, f"{found.rows:,}", left


@app.command()
def sql(
    folder: Folder,
    view: ViewName,
    dialect: Annotated[Dialect, typer.Option(help="Whose SQL.")] = Dialect.spark,
    known_as_of: KnownAsOf = None,
) -> None:
    """Print the query that answers a view for rows of entities and moments.

    headrace views sql examples/flights origin-departures

    headrace views sql examples/flights origin-departures --dialect duckdb
    """
    from headrace.view_sql import feature_rows_sql  # half a second, which no other command needs

    with told_errors():
        found, streams = _definitions(folder, view)
        known_us = _us(known_as_of)
        typer.echo(feature_rows_sql(found, streams, dialect.value, known_as_of_us=known_us))


@app.command()
def job(folder: Folder, view: ViewName, known_as_of: KnownAsOf = None) -> None:
    """Print the job that deploy/spark/feature_rows.py runs: the query and what it reads.

    headrace views job examples/flights origin-departures > job.json
    """
    from headrace.view_sql import feature_rows_job  # as above

    with told_errors():
        found, streams = _definitions(folder, view)
        made = feature_rows_job(found, streams, known_as_of_us=_us(known_as_of))
        typer.echo(json.dumps(made, indent=1))


def _definitions(folder: Path, name: str) -> tuple[StreamView, dict[str, Stream]]:
    """Raises NotFound DEFINITION_UNKNOWN unless the folder has it, with an entity."""
    application = load_application(folder)
    found = application.views.get(name)
    if not isinstance(found, StreamView):
        raise NotFound("DEFINITION_UNKNOWN", view=name, folder=folder)
    return found, application.streams


def _us(moment: datetime | None) -> int | None:
    return None if moment is None else to_us(moment)

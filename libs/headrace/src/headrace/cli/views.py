# SPDX-License-Identifier: Apache-2.0
"""headrace views: a feature view as SQL, for other engines than the platform's own."""

from __future__ import annotations

import json
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from headrace.application import Stream
from headrace.cli.moments import time_option, to_us
from headrace.cli.output import told_errors
from headrace.errors import NotFound
from headrace.feature_view import StreamView
from headrace.loader import load_application
from headrace.view_sql import feature_rows_job, feature_rows_sql

app = typer.Typer(no_args_is_help=True, help="Feature views as SQL, for DuckDB and Spark.")
Folder = Annotated[Path, typer.Argument(help="The application's folder.")]
ViewName = Annotated[str, typer.Argument(help="A view with an entity.")]
KnownAsOf = Annotated[
    datetime | None,
    time_option("Nothing counts that became known later", absent="all that is there"),
]


class Dialect(StrEnum):
    duckdb = "duckdb"
    spark = "spark"


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
    with told_errors():
        found, streams = _definitions(folder, view)
        known_us = _us(known_as_of)
        typer.echo(feature_rows_sql(found, streams, dialect.value, known_as_of_us=known_us))


@app.command()
def job(folder: Folder, view: ViewName, known_as_of: KnownAsOf = None) -> None:
    """Print the job that deploy/spark/feature_rows.py runs: the query and what it reads.

    headrace views job examples/flights origin-departures > job.json
    """
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

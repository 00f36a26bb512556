# SPDX-License-Identifier: Apache-2.0
"""headrace apply, publish, streams and predict: the daily work with an application."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from headrace.cli.connection import DEFAULT_DATA_DIR, DataDir, connect
from headrace.cli.moments import time_option, to_us
from headrace.cli.output import out, show_table, tell, told_errors
from headrace.errors import Invalid
from headrace.ingest.v1.ingest_service_pb2 import StreamCounts
from headrace.loader import load_application
from headrace.reasons import REASONS

LINES_MAX = 10_000_000


def apply(
    folder: Annotated[Path, typer.Argument(help="The application folder.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Check an application folder and store its definitions in the registry.

    Nothing is stored unless all of it is right. Applying the same again changes nothing.

        headrace apply examples/flights
    """
    with told_errors():
        application = load_application(folder)
        stored = connect(data_dir).apply(application)
    table = Table("kind", "name", "version", title=f"Application {application.name}")
    for definition in stored:
        table.add_row(definition.kind, definition.name, str(definition.version))
    show_table(table)


def publish(
    stream: Annotated[str, typer.Argument(help="The stream's name, as in its contract.")],
    file: Annotated[
        Path | None,
        typer.Argument(
            help="JSON lines; standard input when absent.",
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ] = None,
    *,
    grpc: Annotated[bool, typer.Option(help="Through ingest, without Kafka.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Publish JSON records, one a line, and wait until all are durable.

    headrace publish flights.departed departures.jsonl

    echo '{"event_id": "w1", "origin": "JFK", ...}' | headrace publish weather.observed
    """
    with told_errors():
        client = connect(data_dir)
        with file.open("rb") if file else sys.stdin.buffer as lines:
            count = client.publish(stream, _records(lines), door="grpc" if grpc else "kafka")
    records = "1 record" if count == 1 else f"{count} records"
    out.print(f"{records} published to {stream}. What became of them: headrace streams")


def streams(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Show what became of every published record: stored, dead-lettered, or a repeat.

    A record counts when ingest has archived it or set it aside, about a second after it came.

    A stream that is read no further is told with the reason and what to do.

    headrace streams
    """
    with told_errors():
        counts = connect(data_dir).stream_counts()
    counted = ("received", "stored", "late", "repeats")
    table = Table("stream", *counted, "set aside", "redriven")
    letters = Table("stream", "set aside because", "records")
    for each in counts:
        dead = sorted(each.dead_lettered_by_reason.items())
        shown = [*(getattr(each, name) for name in counted), sum(n for _, n in dead), each.redriven]
        table.add_row(each.stream, *(f"{number:,}" for number in shown))
        for reason, number in dead:
            letters.add_row(each.stream, reason, f"{number:,}")
    show_table(table)
    if letters.row_count:
        show_table(letters)
    for each in counts:
        if each.stopped_reason:
            _tell_stopped(each)


def _tell_stopped(stream: StreamCounts) -> None:
    waits = REASONS[stream.stopped_reason].kind == "Unavailable"
    state = "waits, and goes on by itself" if waits else "is stopped; what comes for it is kept"
    out.print(f"[bold]{stream.stream}[/] {state}", soft_wrap=True)
    tell(out, stream.stopped_reason, stream.stopped_details)


def predict(
    endpoint: Annotated[str, typer.Argument(help="The endpoint's name.")],
    row: Annotated[list[str], typer.Argument(help="Rows, as JSON objects of its columns.")],
    as_of: Annotated[datetime | None, time_option("Read the features as known then")] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Predict by entity keys: the server reads the features.

    headrace predict delay '{"flight_id": "2013-03-01:UA:1545:EWR", "origin": "EWR", ...}'

    headrace predict delay --as-of 2013-03-01T09:15:00Z '{"flight_id": ...}'
    """
    as_of_us = None if as_of is None else to_us(as_of)
    with told_errors():
        rows = list(_records(row))
        predictions = connect(data_dir).predict(endpoint, rows, as_of_us=as_of_us)
    table = Table("prediction id", "score", "version")
    for each in predictions:
        table.add_row(each.prediction_id, f"{each.score:.4f}", str(each.version))
    show_table(table)


def _records(lines: Iterable[str | bytes]) -> Iterable[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if number > LINES_MAX:
            raise Invalid("BAD_REQUEST", line=number, problem=f"more than {LINES_MAX} lines")
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as err:  # no JSON, no UTF-8, or too deep
            problem = getattr(err, "msg", str(err))
            raise Invalid("BAD_REQUEST", line=number, problem=f"no JSON: {problem}") from err
        if not isinstance(record, dict):
            raise Invalid("BAD_REQUEST", line=number, problem="not a JSON object")
        yield record

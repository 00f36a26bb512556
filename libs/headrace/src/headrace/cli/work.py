# SPDX-License-Identifier: Apache-2.0
"""headrace apply, publish, streams and predict: the daily work with an application."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import IO, Annotated

import typer
from rich.table import Table

from headrace.cli.connection import DEFAULT_DATA_DIR, DataDir
from headrace.cli.moments import time_option, to_us
from headrace.cli.output import err, out, show_table, tell_stopped, tell_unread, told_errors
from headrace.cli.reason import Reason
from headrace.connection import connect
from headrace.errors import HeadraceError
from headrace.json_lines import RecordLines
from headrace.loader import load_application
from headrace.predictions import Prediction

STDIN = Path("-")
STREAMS_S_MAX = 5.0


def apply(
    folder: Annotated[Path, typer.Argument(help="The application folder.")],
    *,
    reason: Reason = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Check an application folder and store its definitions in the registry.

    Nothing is stored unless all of it is right. Applying the same again changes nothing. What
    ingest cannot read all the same, for want of a setting, is told.

        headrace apply examples/flights
    """
    with told_errors():
        application = load_application(folder)
        client = connect(data_dir)
        stored = client.apply(application, reason=reason)
    table = Table("kind", "name", "version", title=f"Application {application.name}")
    for definition in stored:
        table.add_row(definition.kind, definition.name, str(definition.version))
    show_table(table)
    if versions := {each.name: each.version for each in stored if each.kind == "stream"}:
        tell_unread(lambda: client.await_streams(versions, timeout_s=STREAMS_S_MAX))


def publish(
    stream: Annotated[str, typer.Argument(help="The stream's name, as in its contract.")],
    file: Annotated[Path, typer.Argument(help="JSON lines; - is standard input.")] = STDIN,
    *,
    grpc: Annotated[bool, typer.Option(help="Through ingest, without Kafka.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Publish JSON records, one a line, and wait until all are durable.

    What breaks off may be published again as it was: a record whose id is stored already counts as
    a repeat.

        headrace publish flights.departed departures.jsonl

        echo '{"event_id": "w1", "origin": "JFK", ...}' | headrace publish weather.observed
    """
    with told_errors():
        client = connect(data_dir)
        with _opened(file) as opened:
            lines = RecordLines(opened)
            try:
                count = client.publish(stream, lines, door="grpc" if grpc else "kafka")
            except HeadraceError as error:
                raise lines.told(error) from error
    records = "1 record" if count == 1 else f"{count} records"
    out.print(f"{records} published to {stream}. What became of them: headrace streams")


def _opened(file: Path) -> IO[bytes]:
    if file == STDIN:
        if sys.stdin.isatty():
            err.print("Reading records, one a line; Ctrl-D ends them.")
        return sys.stdin.buffer
    try:
        return file.open("rb")
    except OSError as failure:
        raise typer.BadParameter(f"{file}: {failure.strerror}", param_hint="FILE") from failure


def streams(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Show what became of every published record: stored, dead-lettered, or a repeat.

    A record counts when ingest has archived it or set it aside, about a second after it came.

    Of several reasons the first counts; `headrace dead-letters list` counts a letter under each.

    A stream that is read no further is told with the reason and what to do, also where all wait for
    the archive or for room on a disk.

    headrace streams
    """
    with told_errors():
        counts = connect(data_dir).stream_counts()
    counted = ("received", "stored", "late", "repeats")
    table = Table("stream", *counted, "set aside", "redriven")
    letters = Table("stream", "set aside because (first reason)", "records")
    for each in counts:
        dead = sorted(each.dead_lettered_by_reason.items())
        shown = [*(getattr(each, name) for name in counted), sum(n for _, n in dead), each.redriven]
        unknown = each.counts_unknown
        table.add_row(each.stream, *("unknown" if unknown else f"{n:,}" for n in shown))
        for reason, number in dead:
            letters.add_row(each.stream, reason, f"{number:,}")
    show_table(table)
    if letters.row_count:
        show_table(letters)
    for each in counts:
        tell_stopped(each)


def predict(
    endpoint: Annotated[
        str,
        typer.Argument(help="The endpoint's name, or a version that one serves: models:/NAME/7."),
    ],
    row: Annotated[list[str], typer.Argument(help="Rows, as JSON objects of its columns.")],
    as_of: Annotated[
        datetime | None, time_option("Read the features as known then", past=True)
    ] = None,
    *,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what each feature did to the score.")
    ] = False,
    kafka: Annotated[
        bool, typer.Option("--kafka", help="Through the endpoint's topics, for what may wait.")
    ] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Predict by entity keys: the server reads the features.

    headrace predict delay '{"flight_id": "2013-03-01:UA:1545:EWR", "origin": "EWR", ...}'

    headrace predict delay --as-of 2013-03-01T09:15:00Z '{"flight_id": ...}'

    headrace predict models:/delay@champion '{"flight_id": ...}'

    headrace predict delay --explain '{"flight_id": ...}'
    """
    as_of_us = None if as_of is None else to_us(as_of)
    with told_errors():
        rows = list(RecordLines(row))
        client = connect(data_dir)
        predictions = client.predict(
            endpoint,
            rows,
            as_of_us=as_of_us,
            explain=explain,
            door="kafka" if kafka else "grpc",
        )
    table = Table("prediction id", "score", "version")
    for each in predictions:
        table.add_row(each.prediction_id, f"{each.score:.4f}", str(each.version))
    show_table(table)
    for each in predictions if explain else ():
        show_table(_explanation(each))


def _explanation(prediction: Prediction) -> Table:
    """What moved the score most comes first."""
    table = Table("feature", f"moves {prediction.prediction_id} by")
    by_size = sorted(prediction.attributions.items(), key=lambda item: -abs(item[1]))
    for name, moved in by_size:
        table.add_row(name, f"{moved:+.4f}")
    return table

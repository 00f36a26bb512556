# SPDX-License-Identifier: Apache-2.0
"""headrace lineage: what a version came of, what came of something, who made a prediction."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from headrace.cli.connection import DEFAULT_DATA_DIR, DataDir
from headrace.cli.moments import minute_text
from headrace.cli.output import out, show_table, told_errors, written
from headrace.connection import connect
from headrace.errors import NotFound
from headrace.lineage import Lineage, PredictionOrigin
from headrace.model_reference import REFERENCE
from headrace.open_lineage import run_events
from headrace.registry.v1 import registry_events_pb2 as events
from headrace.registry.v1 import registry_service_pb2 as pb
from headrace.topics import RAW


def lineage(
    thing: Annotated[
        str,
        typer.Argument(
            help="A version (models:/NAME/7, NAME@ALIAS), or the name of what versions came of: a"
            " stream, view, recipe, graph, run, incident, or a digest, of which 8 digits may do."
        ),
    ],
    *,
    kind: Annotated[
        str,
        typer.Option(
            help="Where a name says too little: artifact, run, recipe, graph, component, incident,"
            " training-set, stream, view, definitions, code."
        ),
    ] = "",
    endpoint: Annotated[
        str,
        typer.Option(
            help="The endpoint that made it, when THING is the id of a prediction; of a version:"
            " list the predictions that it made there."
        ),
    ] = "",
    open_lineage: Annotated[
        Path | None,
        typer.Option(
            help="Write OpenLineage run events, one JSON object a line, to a file; - is the output."
        ),
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show what a version came of and who uses it, or every version that came of something.

    headrace lineage models:/delay/7

    headrace lineage flights --kind stream

    headrace lineage 5d41402a

    headrace lineage 00c0ffee00c0ffee00c0ffee00000000 --endpoint delay

    headrace lineage delay@champion --endpoint delay

    headrace lineage flights --open-lineage events.jsonl
    """
    with told_errors():
        asked = connect(data_dir).lineage
        if endpoint and REFERENCE.fullmatch(thing):
            if kind or open_lineage:
                raise typer.BadParameter("predictions are listed: leave --kind, --open-lineage out")
            _list(asked, thing, endpoint)
            return
        if endpoint:
            origin = asked.prediction(thing, endpoint)
            if open_lineage is None:
                out.print(f"{thing}: {origin.reference}, told at {_place(origin)}")
            thing, kind = origin.reference, "version"
        kind = "version" if not kind and REFERENCE.fullmatch(thing) else kind
        if kind == "version":
            found = [asked.version(thing)]
        else:
            found = [*asked.versions_from(thing, kind=kind)]
        if not found:
            raise NotFound("SOURCE_UNKNOWN", name=thing, kind=kind or "any")
        if open_lineage is not None:
            _write(open_lineage, found)
            return
        for each in found:
            _show(each, _graphs_of(asked, each))


def _list(asked: Lineage, version: str, endpoint: str) -> None:
    """A line for each as it is found: there may be millions."""
    found = asked.predictions(version, endpoint)
    first = next(found, None)
    if first is None:
        raise NotFound("PREDICTION_UNKNOWN", version=version, endpoint=endpoint)
    for each in chain([first], found):
        out.print(f"{each.prediction_id}  {_place(each)}")


def _place(origin: PredictionOrigin) -> str:
    return f"{origin.topic} partition {origin.partition} offset {origin.offset}"


def _graphs_of(asked: Lineage, found: pb.VersionLineage) -> list[pb.VersionLineage]:
    """The versions of graphs that this version is a step of."""
    return [*asked.versions_from(f"models:/{found.model}/{found.version}", kind="component")]


def _show(each: pb.VersionLineage, graphs: list[pb.VersionLineage]) -> None:
    registered = minute_text(each.registered_at_us)
    table = Table("", "", title=f"models:/{each.model}/{each.version}, registered {registered}")
    if each.gate_state == events.GATE_STATE_RETRACTED:
        table.add_row("gate", "taken back")
    for source in each.sources:
        table.add_row(f"came of {source.kind}", f"{source.name}{_at(source)}")
    for read in each.read_offsets:
        topic = RAW.of(read.stream)
        offsets = f"partition {read.partition}, offsets {read.first} to {read.last}"
        table.add_row("read of", f"{topic} {offsets}")
    for graph in graphs:
        table.add_row("is a step of", f"models:/{graph.model}/{graph.version}")
    for alias in each.aliases:
        table.add_row("named by alias", alias)
    for endpoint in each.endpoints:
        table.add_row("served by endpoint", endpoint)
    show_table(table)


def _at(source: pb.Source) -> str:
    if source.kind == "component":
        return f" of digest {source.at}"
    return f" at version {source.at} of its archive" if source.at else ""


def _write(to: Path, found: list[pb.VersionLineage]) -> None:
    text = "".join(f"{json.dumps(event)}\n" for each in found for event in run_events(each))
    if to == Path("-"):
        out.print(text, end="")
    else:
        with written(to) as opened:
            opened.write(text)

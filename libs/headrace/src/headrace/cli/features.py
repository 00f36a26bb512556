# SPDX-License-Identifier: Apache-2.0
"""headrace features: what the online store answers of an entity, and how old it is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from headrace.cli.connection import DEFAULT_DATA_DIR, DataDir
from headrace.cli.moments import second_text, time_option, to_us
from headrace.cli.output import EXIT_ERROR, out, show_table, told_errors
from headrace.connection import connect
from headrace.entity import text_of
from headrace.errors import Invalid
from headrace.feature_view import RequestView, StreamView, View
from headrace.online_features import FeatureValue, OnlineFeatures, entity_view

app = typer.Typer(no_args_is_help=True, help="Features of entities, as the online store has them.")


@app.command()
def get(
    view: Annotated[str, typer.Argument(help="A view with an entity.")],
    key: Annotated[
        list[str],
        typer.Argument(help="Entity keys, or JSON objects of the entity's columns."),
    ],
    *,
    feature: Annotated[list[str] | None, typer.Option(help="Only these; may be repeated.")] = None,
    as_of: Annotated[datetime | None, time_option("As known then", past=True)] = None,
    staleness_max_ms: Annotated[
        int, typer.Option(help="Refuse an answer that is further behind; 0 takes any.", min=0)
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Read the features of entities, each with the moment of its newest record.

    headrace features get origin-departures JFK EWR

    headrace features get origin-departures JFK --feature count_1h --as-of 2013-03-01T09:15:00Z

    headrace features get origin-carrier-departures '{"origin": "JFK", "carrier": "UA"}' --json
    """
    with told_errors():
        client = connect(data_dir)
        entities = _entities(_entity_view(client.views, view), key)
        found = client.get_online_features(
            entities,
            [f"{view}:{name}" for name in feature] if feature else [view],
            as_of_us=None if as_of is None else to_us(as_of),
            staleness_max_ms=staleness_max_ms,
        )
    if as_json:
        for entity, row in zip(entities, found.rows, strict=True):
            typer.echo(json.dumps(_document(entity, row, found.known_until_us)))
    else:
        _show(view, entities, found)


@app.command()
def check(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Compute a sample of what was served since the last check again from the archive, and compare.

    Waits up to a minute for the archive to hold what was served. Exit code 1: a value differs that
    is still answered otherwise than the archive has it.

    headrace features check
    """
    with told_errors():
        found = connect(data_dir).check_skew()
    if not found.checked:
        out.print("Nothing was sampled since the last check: of every 64 reads one row is.")
        return
    table = Table("feature", "as of", "served", "from the archive", "online now")
    for each in found.mismatches:
        now = "as the archive" if each.settled else "differs"
        moment = second_text(each.as_of_us)
        table.add_row(each.feature, moment, _told(each.served), _told(each.recomputed), now)
    if found.mismatches:
        show_table(table)
    differ = sum(not each.settled for each in found.mismatches)
    settled = len(found.mismatches) - differ
    out.print(f"{found.checked:,} rows checked: {differ} values differ", end="")
    out.print(f"; {settled} did when they were served" if settled else "")
    if differ:
        raise typer.Exit(EXIT_ERROR)


def _entity_view(views: Mapping[str, View], name: str) -> StreamView:
    """Raises NotFound VIEW_UNKNOWN, Invalid BAD_REQUEST for one without an entity."""
    if isinstance(views.get(name), RequestView):
        problem = f"{name} answers from what a request says, and has no entity to look up"
        raise Invalid("BAD_REQUEST", field="view", problem=problem)
    return entity_view(views, name)


def _entities(view: StreamView, keys: Sequence[str]) -> list[dict[str, str]]:
    """Raises Invalid BAD_REQUEST for a key that does not name the view's entity."""
    return [_entity(view, key) for key in keys]


def _entity(view: StreamView, key: str) -> dict[str, str]:
    try:
        read = json.loads(key)
    except (ValueError, RecursionError):
        read = None
    # An object is never the key itself: one with a wrong name would be answered as absent.
    if len(view.entity) == 1 and not isinstance(read, dict):
        return {view.entity[0]: key}
    if not isinstance(read, dict) or read.keys() != {*view.entity}:
        problem = f"must be a JSON object of {', '.join(view.entity)}"
        raise Invalid("BAD_REQUEST", field="key", given=key, problem=problem)
    return {name: text_of(read[name]) or "" for name in view.entity}


def _show(view: str, entities: Sequence[Mapping[str, str]], found: OnlineFeatures) -> None:
    table = Table("entity", "feature", Column("value", justify="right"), "newest")
    for entity, row in zip(entities, found.rows, strict=True):
        for name, told in row.items():
            table.add_row(", ".join(entity.values()), name.removeprefix(f"{view}:"), *_cells(told))
    show_table(table)
    if found.known_until_us is not None:
        moment = second_text(found.known_until_us)
        out.print(f"All that was published up to {moment} is in it.")


def _cells(told: FeatureValue) -> tuple[str, str]:
    return _told(told.value), "" if told.event_time_us is None else second_text(told.event_time_us)


def _told(value: float | None) -> str:
    return "absent" if value is None or math.isnan(value) else f"{value:.7g}"


def _document(
    entity: Mapping[str, str], row: Mapping[str, FeatureValue], known_until_us: int | None
) -> dict[str, Any]:
    features = {
        name: {"value": told.value, "event_time_us": told.event_time_us}
        for name, told in row.items()
    }
    return {"entity": entity, "features": features, "known_until_us": known_until_us}

# SPDX-License-Identifier: Apache-2.0
"""headrace corrections: which predictions were made before a record of their features came."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.table import Table

from headrace.cli.connection import DEFAULT_DATA_DIR, DataDir
from headrace.cli.output import show_table, told_errors
from headrace.connection import connect
from headrace.feature.v1.feature_events_pb2 import FeaturesCorrected


def corrections(
    view: Annotated[str, typer.Option(help="Of this view only, among the newest.")] = "",
    newest: Annotated[int, typer.Option(help="How many to look at.", min=1, max=10_000)] = 100,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show late records, and the predictions that were made of features without them.

    headrace corrections

    headrace corrections --view origin-departures --newest 1000
    """
    table = Table("view", "entity", "record", "happened", "late by", "predictions")
    with told_errors():
        for told in connect(data_dir).corrections(newest=newest):
            if view in ("", told.view):
                table.add_row(*_row(told))
    show_table(table)


def _row(told: FeaturesCorrected) -> tuple[str, ...]:
    happened = datetime.fromtimestamp(told.event_time_us / 1e6, UTC)
    late = timedelta(seconds=(told.known_time_us - told.event_time_us) // 1_000_000)
    entity = ", ".join(value for _, value in sorted(told.entity.items()))
    return told.view, entity, told.event_id, f"{happened:%Y-%m-%d %H:%M:%S}Z", str(late), _ids(told)


def _ids(told: FeaturesCorrected) -> str:
    if not told.prediction_ids:
        return f"{told.rows:,}, too many to name"
    others = len(told.prediction_ids) - 1
    return told.prediction_ids[0] + (f" and {others:,} more" if others else "")

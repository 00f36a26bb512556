# SPDX-License-Identifier: Apache-2.0
"""headrace materialize: the rows of a view, written into its offline feature table."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from headrace.cli.connection import DEFAULT_DATA_DIR, DataDir
from headrace.cli.moments import time_option, to_us
from headrace.cli.output import out, told_errors
from headrace.connection import connect

Since = Annotated[
    datetime | None, time_option("Where a new table begins", absent="its first record")
]
Until = Annotated[
    datetime | None,
    time_option("How far it is to reach", absent="as far as the archive holds all"),
]


def materialize(
    view: Annotated[str, typer.Argument(help="The view.")],
    *,
    since: Since = None,
    until: Until = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Write the rows of a view into its offline feature table, from where that ends.

    headrace materialize origin-departures --until 2013-03-01T00:00:00Z
    """
    waits_for = ""
    with told_errors():
        for told in connect(data_dir).materialize_view(
            view,
            from_us=0 if since is None else to_us(since),
            until_us=None if until is None else to_us(until),
        ):
            if told.reached_us >= 0:
                reached = datetime.fromtimestamp(told.reached_us / 1e6, UTC)
                out.print(f"{told.rows:,} rows, all up to {reached:%Y-%m-%d %H:%M:%S} UTC")
            waits_for = waits_for or told.waits_for
    if waits_for:
        out.print(f"No further yet. It waits for {waits_for}.")

# SPDX-License-Identifier: Apache-2.0
"""headrace rollouts: shadows, canaries, splits and stops of endpoints, by hand."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from headrace.cli.connection import DEFAULT_DATA_DIR, DataDir
from headrace.cli.moments import minute_text
from headrace.cli.output import out, show_table, told_errors
from headrace.connection import connect
from headrace.registry.v1.registry_events_pb2 import Rollout

app = typer.Typer(
    no_args_is_help=True,
    help="What each endpoint serves beside its champion. Every replica follows within seconds.",
)
Endpoint = Annotated[str, typer.Argument(help="The endpoint's name.")]
Version = Annotated[
    str,
    typer.Argument(
        help="A version of its model that passed its gate: 7, models:/NAME/7 or NAME@ALIAS."
    ),
]
Percent = Annotated[int, typer.Option(min=1, max=100, help="Of the entities.")]
Reason = Annotated[str, typer.Option(help="Why, in one line; it is told with the change.")]


@app.command("list")
def list_rollouts(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """List what each endpoint serves, and the last change.

    headrace rollouts list
    """
    table = Table("endpoint", "model", "champion", "beside it", "generation", "last change", "when")
    with told_errors():
        for each in connect(data_dir).rollouts.list():
            table.add_row(
                each.endpoint,
                each.model,
                "stopped" if each.stopped else str(each.champion.version),
                _beside(each),
                str(each.generation),
                each.change,
                minute_text(each.changed_at_us),
            )
    show_table(table)


@app.command()
def shadow(
    endpoint: Endpoint, version: Version, *, reason: Reason, data_dir: DataDir = DEFAULT_DATA_DIR
) -> None:
    """Score a version with every request, and let it answer none.

    headrace rollouts shadow delay 7 --reason "is it faster?"
    """
    with told_errors():
        _tell(connect(data_dir).rollouts.shadow(endpoint, version, reason=reason))


@app.command()
def canary(
    endpoint: Endpoint,
    version: Version,
    *,
    percent: Percent,
    reason: Reason,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Let a version answer a share of the entities until the monitor promotes it or rolls it back.

    headrace rollouts canary delay 7 --percent 20 --reason "trained on all airports"
    """
    with told_errors():
        found = connect(data_dir).rollouts
        _tell(found.canary(endpoint, version, percent=percent, reason=reason))


@app.command()
def split(
    endpoint: Endpoint,
    version: Version,
    *,
    percent: Percent,
    reason: Reason,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Let a version answer a share of the entities until you end that (A/B): no verdict does.

    An entity stays with its version. Meanwhile no new version becomes a canary there.

    headrace rollouts split delay 7 --percent 50 --reason "A/B for two weeks"
    """
    with told_errors():
        found = connect(data_dir).rollouts
        _tell(found.split(endpoint, version, percent=percent, reason=reason))


@app.command()
def end(endpoint: Endpoint, *, reason: Reason, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Let the champion answer alone again; headrace promote moves the champion.

    headrace rollouts end delay --reason "worse on short flights"
    """
    with told_errors():
        _tell(connect(data_dir).rollouts.end(endpoint, reason=reason))


@app.command()
def stop(endpoint: Endpoint, *, reason: Reason, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Let an endpoint answer nobody (ENDPOINT_STOPPED) until it is started again.

    headrace rollouts stop delay --reason "wrong features since noon"
    """
    with told_errors():
        _tell(connect(data_dir).rollouts.stop(endpoint, reason=reason))


@app.command()
def start(endpoint: Endpoint, *, reason: Reason, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Let a stopped endpoint answer again.

    headrace rollouts start delay --reason "features are mended"
    """
    with told_errors():
        _tell(connect(data_dir).rollouts.start(endpoint, reason=reason))


def _beside(rollout: Rollout) -> str:
    if not rollout.HasField("canary"):
        return ""
    kind = "canary" if rollout.judged else "split" if rollout.canary_percent else "shadow"
    return f"{kind} {rollout.canary.version}, {rollout.canary_percent} %"


def _tell(rollout: Rollout) -> None:
    champion = "stopped" if rollout.stopped else f"champion {rollout.champion.version}"
    beside = ", ".join(each for each in (champion, _beside(rollout)) if each)
    out.print(f"{rollout.endpoint}: {beside} (generation {rollout.generation})")

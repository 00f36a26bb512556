# SPDX-License-Identifier: Apache-2.0
"""`headrace demo flights`: starts a fresh platform, replays, prints the account, stops all."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from flights_example.account import Account, account, everything_accounted
from flights_example.events import EventBatch
from flights_example.replay import Plan, plan_months, replay
from flights_example.table import summary_table
from headrace.cli.output import told_errors
from headrace.client import Client
from headrace.loader import load_application
from headrace.local.platform import Platform, PlatformOptions
from headrace.local.tools import ToolCache

APPLICATION = Path(__file__).resolve().parents[2]
EXIT_UNACCOUNTED = 2
# Without a terminal a line tells of each tenth day.
LOGGED_DAYS = 10
console = Console(highlight=False)


def flights(
    months: Annotated[
        str, typer.Option(help="Months of 2013: two to train on, the rest to predict.")
    ] = "1-3",
    speed: Annotated[
        float | None,
        typer.Option(help="Event seconds per second; as fast as the platform takes it if absent."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the dirt that is mixed in.")] = 13,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the account there, as one JSON object.")
    ] = None,
    data_dir: Annotated[
        Path, typer.Option(help="The demo's own data; an earlier run's are removed.")
    ] = Path(".headrace/demo"),
) -> None:
    """Run the closed loop on the flights that left New York in 2013.

    Real events, late labels, a model that ages, and a loop that notices and retrains by itself.

        headrace demo flights

        headrace demo flights --months 1-7 --json july.json

        headrace demo flights --speed 3600      (an hour of 2013 each second)
    """
    with told_errors():
        plan = _plan(months, speed, seed)
        summary = _run(plan, data_dir)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    console.print(summary_table(summary))
    if not everything_accounted(summary):
        console.print("[bold red]published is not stored + dead-lettered + repeats[/]")
        raise typer.Exit(EXIT_UNACCOUNTED)


def _plan(months: str, speed: float | None, seed: int) -> Plan:
    first, _, last = months.partition("-")
    try:
        return plan_months(int(first), int(last), speed=speed, seed=seed)
    except ValueError as err:
        raise typer.BadParameter(str(err), param_hint="--months") from err


def _run(plan: Plan, data_dir: Path) -> Account:
    with _Bars(plan) as bars:
        options = PlatformOptions(
            data_dir=data_dir, tools=ToolCache(Path(".headrace/tools"), bars.said), fresh=True
        )
        with Platform(options).running(progress=bars.said) as platform:
            client = Client(platform.addresses)
            bars.note(f"live page: {platform.page_uri}")
            client.apply(load_application(APPLICATION))
            outcome = replay(client, plan, bars)
            bars.said("reading the account")
            return account(client, outcome, platform.rss_mb_by_service())


class _Bars:
    """Watcher that draws: days replayed, events published, predictions served, and what goes on."""

    def __init__(self, plan: Plan) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._said_last = ""
        self._days = self._progress.add_task("days", total=plan.days + 1, note="")
        self._events = self._progress.add_task("events", total=None, note="")
        self._predictions = self._progress.add_task("predictions", total=None, note="")
        self._step_us = 0

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def said(self, text: str) -> None:
        self._progress.update(self._days, note=text)
        # A log has no bars: it gets a line for whatever is new.
        if not console.is_terminal and text != self._said_last:
            console.print(text, markup=False)
        self._said_last = text

    def note(self, text: str) -> None:
        console.print(text)

    def replayed(self, step: EventBatch, events: int) -> None:
        day = date.fromtimestamp(step.from_us / 1e6)
        if not console.is_terminal and day.day % LOGGED_DAYS == 1:
            console.print(f"{day:%d %B %Y}: {events:,} events")
        days = (step.until_us - step.from_us) / 86_400e6
        self._progress.update(self._days, advance=days)
        self._progress.update(self._events, advance=events, note=f"{day:%d %B %Y}")

    def predicted(self, rows: int) -> None:
        self._progress.update(self._predictions, advance=rows)

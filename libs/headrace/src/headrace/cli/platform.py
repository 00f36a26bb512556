# SPDX-License-Identifier: Apache-2.0
"""headrace up, down, status and doctor: the platform on this machine."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from headrace.cli.connection import DEFAULT_DATA_DIR, DataDir
from headrace.cli.output import EXIT_ERROR, out, show_table, told_errors
from headrace.errors import Invalid
from headrace.local import control
from headrace.local.doctor import Level, diagnose
from headrace.local.platform import Platform, PlatformOptions
from headrace.local.ports import DEFAULT_PORTS
from headrace.local.state import DataFolder, ProcessState, live_state, rss_mb_by_service
from headrace.local.supervisor import run_until_signalled
from headrace.local.tools import ToolCache

# What is needed once is downloaded and built, then come the stores, then the services.
START_DEADLINE_S = 900.0
STYLE = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}
TOOLS = Path(".headrace/tools")

Kafka = Annotated[
    str | None, typer.Option(help="HOST:PORT of a broker to use instead of an own one.")
]
Port = Annotated[
    list[str] | None, typer.Option(help="NAME=PORT, such as kafka=19092; may be given again.")
]


def up(
    *,
    kafka: Kafka = None,
    postgres: Annotated[bool, typer.Option(help="PostgreSQL instead of SQLite.")] = False,
    s3: Annotated[bool, typer.Option(help="An S3 server instead of a folder.")] = False,
    port: Port = None,
    detach: Annotated[bool, typer.Option(help="Return when all is ready.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Start Kafka and the six services on this machine; Ctrl-C stops them all.

    Data stay in the data folder, and the next start goes on with them. A service that dies before
    all are ready ends the start, with its last words. One that dies later is started again, ten
    times in a row; the row ends when it was ready for half a minute. After the tenth, or at once
    for a wrong setting, it is given up, with its log named: headrace down and up begin anew. All
    together have five minutes to be ready, without what is downloaded and built at the first time,
    and every ten seconds it is told what is waited for.

    The services have this environment: what it says of their stores (INGEST_OBJECT_STORE_URI,
    REGISTRY_DATABASE_URI) wins over the folder and SQLite. What the options say (ports, Kafka, the
    data folder, --postgres, --s3) it may not say otherwise.

        headrace up

        headrace up --detach --port kafka=19092 --port inference-grpc=18001

        headrace up --postgres --s3
    """
    with told_errors():
        ports = _ports(port or [])
        if detach:
            command = [sys.executable, "-m", "headrace.cli.main", *_attached(sys.argv[1:])]
            folder = DataFolder(data_dir)
            control.start_detached(command, folder, deadline_s=START_DEADLINE_S, report=_said)
            out.print("All ready. Look: headrace status. Stop: headrace down.")
            return
        tools = ToolCache(TOOLS, _said)
        platform = Platform(PlatformOptions(data_dir, tools, kafka, postgres, s3, ports))
        out.print(f"Live page of the monitor: {platform.page_uri}")
        run_until_signalled(platform.supervisor(_said))


def down(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Stop the platform that runs on the data folder, in order, and leave no process.

    headrace down
    """
    with told_errors():
        stopped = control.stop(DataFolder(data_dir), deadline_s=control.STOP_DEADLINE_S)
    out.print("Stopped." if stopped else "Nothing was running.")


def status(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Show each process: state, ports, memory, restarts. Exit code 1 unless all is ready.

    headrace status
    """
    with told_errors():
        state = live_state(DataFolder(data_dir))
    if state is None:
        out.print("Nothing is running. Start it with: headrace up")
        raise typer.Exit(EXIT_ERROR)
    memory = rss_mb_by_service(state)
    table = Table("process", "state", "ports", "since", "MB", "restarts")
    for process in state.processes:
        table.add_row(*_row(process, memory.get(process.name)))
    show_table(table)
    out.print(f"Logs: {DataFolder(data_dir).logs}/<process>.log")
    if not state.ready:
        raise typer.Exit(EXIT_ERROR)


def doctor(kafka: Kafka = None, port: Port = None, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Check what `headrace up` needs here, and say what to do about what is missing.

    headrace doctor

    headrace doctor --kafka broker.example:9092
    """
    with told_errors():
        checks = diagnose(data_dir, TOOLS, port_by_setting=_ports(port or []), bootstrap=kafka)
    table = Table("check", "result", "found", "next")
    for check in checks:
        level = Text(check.level.value, style=STYLE[check.level])
        table.add_row(check.name, level, check.found, check.next)
    show_table(table)
    if any(check.level is Level.PROBLEM for check in checks):
        raise typer.Exit(EXIT_ERROR)


def _ports(given: list[str]) -> dict[str, int]:
    ports = dict(DEFAULT_PORTS)
    for each in given:
        name, _, number = each.partition("=")
        if name not in ports or not number.isdigit() or not 0 < int(number) < 65_536:
            names = ", ".join(DEFAULT_PORTS)
            raise Invalid("BAD_SETTING", port=each, expected="NAME=PORT", names=names)
        ports[name] = int(number)
    return ports


def _attached(arguments: list[str]) -> list[str]:
    return [argument for argument in arguments if argument != "--detach"]


def _row(process: ProcessState, memory_mb: float | None) -> tuple[str | Text, ...]:
    color = {"ready": "green", "failed": "red"}.get(process.state, "yellow")
    began = process.started_at_s
    since = "" if began is None else f"{datetime.fromtimestamp(began):%d %b %H:%M:%S}"
    return (
        process.name,
        Text(process.state, style=color),
        ", ".join(str(port) for port in process.ports.values()),
        since,
        "" if memory_mb is None else f"{memory_mb:.0f}",
        f"{process.restarts}" + (f" ({process.last_end})" if process.last_end else ""),
    )


def _said(line: str) -> None:
    out.print(line)

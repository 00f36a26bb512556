# SPDX-License-Identifier: Apache-2.0
"""What the commands share: consoles, tables that are never cut, errors as cause and next step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import typer
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from headrace.errors import HeadraceError
from headrace.ingest.v1.ingest_service_pb2 import StreamCounts
from headrace.reasons import REASONS

EXIT_ERROR = 1
WIDTH_MAX = 10_000
# A line is never broken: what is on it may be copied, and piped.
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def show_table(table: Table) -> None:
    """Every cell whole: as a table where it fits the screen, else row by row, a line a cell.

    What is piped has no width.
    """
    width = Measurement.get(out, out.options.update(width=WIDTH_MAX), table).maximum
    if width <= out.width or not out.is_terminal:
        table.width = width
        out.print(table, crop=False)
        return
    names = [str(column.header) for column in table.columns]
    for row in zip(*(column.cells for column in table.columns), strict=True):
        for name, cell in zip(names, row, strict=True):
            if cell:
                out.print(f"{name}: {cell}")
        out.print()


def tell(console: Console, reason: str, details: Mapping[str, str]) -> None:
    """A reason of the closed list: what happened, what it is about, and what to do."""
    entry = REASONS[reason]
    console.print(f"[bold red]{reason}[/]: {escape(entry.means)}")
    for name, value in details.items():
        lines = value.splitlines()
        shown = value if len(lines) == 1 else "\n    ".join(["", *lines])
        console.print(f"  {name}: {shown}", markup=False)
    console.print(f"[bold]Next:[/] {escape(entry.next)}")


def tell_stopped(stream: StreamCounts) -> None:
    """That the stream is read no further, if so, and what to do."""
    if not stream.stopped_reason:
        return
    waits = REASONS[stream.stopped_reason].kind in ("Unavailable", "Busy")
    state = "waits, and goes on by itself" if waits else "is stopped; what comes for it is kept"
    out.print(f"[bold]{stream.stream}[/] {state}")
    tell(out, stream.stopped_reason, stream.stopped_details)


def tell_unread(ask: Callable[[], Iterable[StreamCounts]]) -> None:
    """Which of the streams are read no further. What is stored stays so: that changes no exit code,
    nor does an ingest that does not tell."""
    try:
        found = ask()
    except HeadraceError as error:
        err.print(f"Ingest has not told yet whether it reads all streams ({error.reason}).")
        err.print("It will: headrace streams")
        return
    for each in found:
        tell_stopped(each)


@contextmanager
def told_errors() -> Iterator[None]:
    """A HeadraceError ends the command with what happened, what it is about, and what to do."""
    try:
        yield
    except HeadraceError as error:
        tell(err, error.reason, error.metadata)
        raise typer.Exit(EXIT_ERROR) from error


@contextmanager
def written(file: Path) -> Iterator[TextIO]:
    """The file, to be written anew; raises typer.BadParameter where it cannot be."""
    try:
        with file.open("w", encoding="utf-8") as opened:
            yield opened
    except OSError as failure:
        raise typer.BadParameter(f"{file}: {failure.strerror}") from failure


def read_text(file: Path, option: str) -> str:
    """The file's text; raises typer.BadParameter, which names the option, where it has none."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError as failure:
        raise typer.BadParameter(f"{file}: {failure.strerror}", param_hint=option) from failure
    except UnicodeDecodeError as failure:
        raise typer.BadParameter(f"{file} is not UTF-8", param_hint=option) from failure

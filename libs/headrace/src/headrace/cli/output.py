# SPDX-License-Identifier: Apache-2.0
"""What the commands share: consoles, tables that are never cut, errors as cause and next step."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from headrace.errors import HeadraceError
from headrace.ingest.v1.ingest_service_pb2 import StreamCounts
from headrace.reasons import REASONS

EXIT_ERROR = 1
WIDTH_MAX = 10_000
# What a terminal obeys instead of showing it: C0 but tab and line feed, DEL, C1, and what turns the
# direction of text (Unicode UAX 9), by which a line reads as another one.
OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class PlainConsole(Console):
    """Shows texts as they are, whoever gave them: none is markup, and none commands the terminal.

    Styles are given by `rich.text.Text`. A line is never broken: what is on it may be copied, and
    piped.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, soft_wrap=True, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """All strings come by here, those in the cells of tables too."""
        return super().render_str(shown_whole(text), **options)


def shown_whole(text: str) -> str:
    """What a terminal would obey as its Python escape, such as `\\x1b`."""
    return OBEYED.sub(lambda found: ascii(found[0])[1:-1], text.replace("\r\n", "\n"))


out = PlainConsole()
err = PlainConsole(stderr=True)


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
                out.print(f"{name}:", cell)
        out.print()


def tell(console: Console, reason: str, details: Mapping[str, str]) -> None:
    """A reason of the closed list: what happened, what it is about, and what to do."""
    entry = REASONS[reason]
    console.print(Text(f"{reason}:", style="bold red"), entry.means)
    for name, value in details.items():
        lines = value.splitlines()
        shown = value if len(lines) == 1 else "\n    ".join(["", *lines])
        console.print(f"  {name}: {shown}")
    console.print(Text("Next:", style="bold"), entry.next)


def tell_stopped(stream: StreamCounts) -> None:
    """That the stream is read no further, if so, and what to do."""
    if not stream.stopped_reason:
        return
    waits = REASONS[stream.stopped_reason].kind in ("Unavailable", "Busy")
    state = "waits, and goes on by itself" if waits else "is stopped; what comes for it is kept"
    out.print(Text(stream.stream, style="bold"), state)
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
def told_besides() -> Iterator[None]:
    """What is told behind a change that was made: an error of it is told, and ends nothing."""
    try:
        yield
    except HeadraceError as error:
        tell(err, error.reason, error.metadata)


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

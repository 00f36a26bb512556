# SPDX-License-Identifier: Apache-2.0
"""What the commands share: consoles, and an error told as cause and next step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from headrace.errors import HeadraceError
from headrace.reasons import REASONS

EXIT_ERROR = 1
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


@contextmanager
def told_errors() -> Iterator[None]:
    """A HeadraceError ends the command with what happened, what it is about, and what to do."""
    try:
        yield
    except HeadraceError as error:
        reason = REASONS[error.reason]
        err.print(f"[bold red]{error.reason}[/]: {escape(reason.means)}")
        for name, value in error.metadata.items():
            lines = value.splitlines()
            shown = value if len(lines) == 1 else "\n    ".join(["", *lines])
            err.print(f"  {name}: {shown}", markup=False)
        err.print(f"[bold]Next:[/] {escape(reason.next)}")
        raise typer.Exit(EXIT_ERROR) from error

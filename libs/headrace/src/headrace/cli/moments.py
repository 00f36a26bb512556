# SPDX-License-Identifier: Apache-2.0
"""Times on the command line: RFC 3339 with its zone, as people write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import typer

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(text: str) -> datetime:
    """Raises typer.BadParameter for a time without a zone, since none is guessed."""
    read = datetime.fromisoformat(text)
    if read.tzinfo is None:
        raise typer.BadParameter(f"{text} says no time zone: 2013-03-01T09:15:00Z, or +01:00")
    return read


def time_option(use: str, *, absent: str = "now") -> Any:
    """The option of a command that takes such a time; `use` says what for."""
    text = f"{use}, such as 2013-03-01T09:15:00Z; {absent} if absent."
    return typer.Option(parser=moment, metavar="TIME", help=text)


def to_us(read: datetime) -> int:
    """Microseconds since the epoch."""
    return (read - EPOCH) // timedelta(microseconds=1)


def minute_text(time_us: int) -> str:
    """In UTC, as tables show what happens a few times a day."""
    return f"{datetime.fromtimestamp(time_us / 1e6, UTC):%Y-%m-%d %H:%M}Z"


def second_text(time_us: int) -> str:
    """In UTC, as tables show what happens often."""
    return f"{datetime.fromtimestamp(time_us / 1e6, UTC):%Y-%m-%d %H:%M:%S}Z"

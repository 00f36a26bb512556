# SPDX-License-Identifier: Apache-2.0
"""Times on the command line: RFC 3339 with its zone, as people write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import typer

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EXAMPLE = "2013-03-01T09:15:00Z"
# As far as the clocks of two machines may be apart.
CLOCK_SKEW = timedelta(minutes=5)


def moment(text: str) -> datetime:
    """Raises typer.BadParameter for no time, and for one without a zone: none is guessed."""
    try:
        read = datetime.fromisoformat(text)
    except ValueError as err:
        raise typer.BadParameter(f"{text} is no time such as {EXAMPLE}") from err
    if read.tzinfo is None:
        raise typer.BadParameter(f"{text} says no time zone: {EXAMPLE}, or +01:00")
    return read


def past_moment(text: str) -> datetime:
    """As `moment`; also for one that is still to come: nobody knows what will be known then."""
    read = moment(text)
    if read > datetime.now(UTC) + CLOCK_SKEW:
        raise typer.BadParameter(f"{text} is still to come")
    return read


def time_option(use: str, *, absent: str = "now", past: bool = False) -> Any:
    """The option of a command that takes such a time; `use` says what for."""
    text = f"{use}, such as {EXAMPLE}; {absent} if absent."
    return typer.Option(parser=past_moment if past else moment, metavar="TIME", help=text)


def to_us(read: datetime) -> int:
    """Microseconds since the epoch."""
    return (read - EPOCH) // timedelta(microseconds=1)


def minute_text(time_us: int) -> str:
    """In UTC, as tables show what happens a few times a day."""
    return f"{datetime.fromtimestamp(time_us / 1e6, UTC):%Y-%m-%d %H:%M}Z"


def second_text(time_us: int) -> str:
    """In UTC, as tables show what happens often."""
    return f"{datetime.fromtimestamp(time_us / 1e6, UTC):%Y-%m-%d %H:%M:%S}Z"

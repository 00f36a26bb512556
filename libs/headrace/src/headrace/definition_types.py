# SPDX-License-Identifier: Apache-2.0
"""What the definitions of an application are written in: names, durations, closed types."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, PlainSerializer

NAME = re.compile(r"[a-z0-9][a-z0-9\-.]{0,127}")
COLUMN = re.compile(r"[a-z][a-z0-9_]{0,63}")
SECONDS_BY_UNIT = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
# Longer than all event times, and in microseconds twice of it can be taken from one within int64.
DURATION_S_MAX = 50_000_000 * 86_400


def duration_s(value: object) -> object:
    """Seconds of "15m", "-1h" or "14d"; a number without a unit is refused."""
    if not isinstance(value, str) or not (found := re.fullmatch(r"(-?\d+)([smhd])", value)):
        raise ValueError("a duration is a whole number with a unit s, m, h or d, such as 15m")
    seconds = int(found[1]) * SECONDS_BY_UNIT[found[2]]
    if abs(seconds) > DURATION_S_MAX:
        raise ValueError(f"a duration is at most {DURATION_S_MAX // 86_400}d")
    return seconds


def duration_text(value: int) -> str:
    """The JSON form keeps the unit, so that it reads back through the same rule."""
    return f"{value}s"


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError("a name is lower-case letters, digits, - and ., at most 128")
    return value


def _column(value: str) -> str:
    if not COLUMN.fullmatch(value):
        problem = "is a lower-case letter, then letters, digits and _, at most 64"
        raise ValueError(f"a column or feature {problem}")
    return value


def _positive(value: int) -> int:
    if value <= 0:
        raise ValueError("a positive duration is needed")
    return value


Duration = Annotated[int, BeforeValidator(duration_s), PlainSerializer(duration_text)]
Span = Annotated[Duration, AfterValidator(_positive)]
Name = Annotated[str, AfterValidator(_name)]
ColumnName = Annotated[str, AfterValidator(_column)]


class Closed(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

# SPDX-License-Identifier: Apache-2.0
"""Which event times a window sees, in SQL: those in (since, until].

What the clocks of a zone show is written into the query as a table, so that every engine counts
days by the same release of the time zones as the services do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from sqlglot import exp

from headrace.feature_view import WindowFeature
from headrace.view_sql.steps import WRITTEN_IN, Steps, chosen

SECOND_US, DAY_US = 1_000_000, 86_400_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
# Event times are of these years; before and after, the clocks stay as they were.
LAST = datetime(2200, 1, 1, tzinfo=UTC)
ALWAYS_US = 2**61


@dataclass(frozen=True, slots=True)
class Window:
    """A sliding window, or a tumbling one in UTC or by a zone's days."""

    length_us: int
    tumbling: bool = False
    timezone: str | None = None

    @classmethod
    def of(cls, feature: WindowFeature) -> Window:
        return cls(feature.window_s * SECOND_US, feature.tumbling, feature.timezone)


def edged(steps: Steps, source: str, windows: list[Window]) -> str:
    """Adds `since_<n>` and `until_<n>` for each window to the questions."""
    query = chosen("q.*").from_(f"{source} AS q")
    for number, window in enumerate(windows):
        if window.timezone is not None:
            query = _by_calendar(steps, query, number, window, window.timezone)
            continue
        until = "q.as_of_us"
        if window.tumbling:
            until = f"{_floored('q.as_of_us', window.length_us)} - 1"
        query = query.select(
            f"{until} - {window.length_us} AS since_{number}",
            f"{until} AS until_{number}",
            dialect=WRITTEN_IN,
        )
    return steps.add("edged", query)


def _by_calendar(
    steps: Steps, query: exp.Select, number: int, window: Window, timezone: str
) -> exp.Select:
    """From the zone's midnight to a midnight; where a clock leaps over it, from then."""
    clocks = steps.add(f"clocks_{number}", chosen("*").from_(_clocks_table(timezone)))
    now, ends, begins = (f"{name}_{number}" for name in ("now", "ends", "begins"))
    end = _floored(f"(q.as_of_us + {now}.offset_us)", window.length_us)
    begin = f"{end} - {window.length_us}"
    query = query.join(
        f"{clocks} AS {now}", on=f"q.as_of_us >= {now}.from_us AND q.as_of_us < {now}.until_us"
    )
    for alias, wall in ((ends, end), (begins, begin)):
        on = f"{wall} >= {alias}.wall_from_us AND {wall} < {alias}.wall_until_us"
        query = query.join(f"{clocks} AS {alias}", on=on, dialect=WRITTEN_IN)
    return query.select(
        f"{begin} - {begins}.offset_us - 1 AS since_{number}",
        f"{end} - {ends}.offset_us - 1 AS until_{number}",
        dialect=WRITTEN_IN,
    )


def _floored(moment: str, length_us: int) -> str:
    """The multiple of the length at or before the moment, which may be before 1970."""
    return f"({moment} - (({moment} % {length_us}) + {length_us}) % {length_us})"


def _clocks_table(timezone: str) -> exp.Expr:
    columns = ["from_us", "until_us", "wall_from_us", "wall_until_us", "offset_us"]
    return exp.values(_clocks(timezone), alias="clocks", columns=columns)


@lru_cache(maxsize=16)
def _clocks(timezone: str) -> tuple[tuple[int, ...], ...]:
    """(from, until, the same on the clock, offset), as PEP 495 reads what a clock shows twice."""
    changes = list(_changes(ZoneInfo(timezone)))
    offsets_us = [offset_us for _, offset_us in changes]
    moments_us = [-ALWAYS_US, *(moment_us for moment_us, _ in changes[1:]), ALWAYS_US]
    walls_us = [
        -ALWAYS_US,
        *(
            moment_us + max(before, after)
            for moment_us, before, after in zip(
                moments_us[1:], offsets_us, offsets_us[1:], strict=False
            )
        ),
        ALWAYS_US,
    ]
    return tuple(zip(moments_us, moments_us[1:], walls_us, walls_us[1:], offsets_us, strict=False))


def _changes(zone: ZoneInfo) -> Iterator[tuple[int, int]]:
    """When the offset from UTC became another, and which."""
    day = EPOCH
    yield 0, _offset_us(day, zone)
    while day < LAST:
        if _offset_us(day, zone) != _offset_us(day + DAY, zone):
            low, high = 0, DAY // timedelta(seconds=1)
            while high - low > 1:
                middle = (low + high) // 2
                same = _offset_us(day, zone) == _offset_us(day + timedelta(seconds=middle), zone)
                low, high = (middle, high) if same else (low, middle)
            changed = day + timedelta(seconds=high)
            yield (changed - EPOCH) // timedelta(microseconds=1), _offset_us(changed, zone)
        day += DAY


def _offset_us(moment: datetime, zone: ZoneInfo) -> int:
    offset = moment.astimezone(zone).utcoffset() or timedelta()
    return offset // timedelta(microseconds=1)

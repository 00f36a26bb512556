# SPDX-License-Identifier: Apache-2.0
"""What the clocks of a zone show, for many moments at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

SECOND_US = 1_000_000
HOUR_S, DAY_S = 3_600, 86_400
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What a clock can show: the years 2 to 9998, so that no zone leaves the calendar.
FIRST_US = (datetime(2, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
LAST_US = (datetime(9998, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
MIDNIGHTS_CACHED_MAX = 4_096


def local_seconds(moments_us: NDArray[np.int64], timezone: str) -> NDArray[np.int64]:
    """Seconds since 1970 as the zone's clock shows them; each second is looked up once."""
    seconds, place = np.unique(moments_us // SECOND_US, return_inverse=True)
    zone = ZoneInfo(timezone)
    moments = (EPOCH + timedelta(seconds=second) for second in seconds.tolist())
    offsets = (moment.astimezone(zone).utcoffset() for moment in moments)
    offsets_s = [offset.total_seconds() for offset in offsets if offset is not None]
    return (seconds + np.array(offsets_s, dtype=np.int64))[place]


def midnights_us(days: NDArray[np.int64], timezone: str) -> NDArray[np.int64]:
    """When each local day (since 1970-01-01) begins: where a clock leaps over midnight, then."""
    distinct, place = np.unique(days, return_inverse=True)
    begins = [_midnight_us(day, timezone) for day in distinct.tolist()]
    return np.array(begins, dtype=np.int64)[place]


@lru_cache(maxsize=MIDNIGHTS_CACHED_MAX)
def _midnight_us(day: int, timezone: str) -> int:
    date = EPOCH.replace(tzinfo=ZoneInfo(timezone)) + timedelta(days=day)  # of the wall clock
    return (date.astimezone(UTC) - EPOCH) // timedelta(microseconds=1)

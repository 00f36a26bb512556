# SPDX-License-Identifier: Apache-2.0
"""The one place that reads the wall clock; all times are int64 microseconds since the epoch."""

from __future__ import annotations

import time
from typing import Protocol

# How far clocks of different machines may be apart: what is beyond lies in the future.
CLOCK_SKEW_US = 300 * 1_000_000


class Clock(Protocol):
    """What time it is."""

    def now_us(self) -> int:
        """Microseconds since the epoch, UTC."""


class SystemClock:
    """Clock of the machine."""

    def now_us(self) -> int:
        return time.time_ns() // 1_000

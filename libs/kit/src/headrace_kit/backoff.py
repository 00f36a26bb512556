# SPDX-License-Identifier: Apache-2.0
"""When to try again: twice as late each time, up to a bound."""

from __future__ import annotations

import time

FIRST_S = 0.1
BACKOFF_S_MAX = 5.0


class Backoff:
    """Counts failures in a row and says how long to wait."""

    def __init__(self) -> None:
        self.tries = 0
        self._until_s = 0.0

    def failed(self, delay_s_min: float | None = None) -> float:
        """Note a failure; returns the seconds to wait."""
        self.tries += 1
        delay_s = min(BACKOFF_S_MAX, FIRST_S * 2 ** min(self.tries - 1, 10))
        delay_s = max(delay_s, min(delay_s_min or 0.0, BACKOFF_S_MAX))
        self._until_s = time.monotonic() + delay_s
        return delay_s

    def succeeded(self) -> None:
        self.tries, self._until_s = 0, 0.0

    def left_s(self) -> float:
        """Seconds until the next try is due; 0.0 when it is."""
        return max(0.0, self._until_s - time.monotonic())

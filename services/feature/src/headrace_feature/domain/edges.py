# SPDX-License-Identifier: Apache-2.0
"""Which event times a window sees as of a moment: after one edge, up to and with the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.feature_view import WindowFeature
from headrace_feature.domain.local_time import (
    DAY_S,
    FIRST_US,
    LAST_US,
    SECOND_US,
    local_seconds,
    midnights_us,
)

Moments = NDArray[np.int64]
DAY_US = DAY_S * SECOND_US


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """A sliding window, or a tumbling one: the last complete one that began at a whole multiple of
    its length since 1970, in UTC or (whole days) by a zone's calendar.
    """

    length_us: int
    tumbling: bool = False
    timezone: str = ""

    @classmethod
    def of(cls, feature: WindowFeature) -> Window:
        return cls(feature.window_s * SECOND_US, feature.tumbling, feature.timezone or "")

    @property
    def reach_us(self) -> int:
        """How far back from a moment it looks at most; a zone may skip a day of its calendar."""
        return self.length_us * (1 + self.tumbling) + DAY_US * bool(self.timezone)

    def edges(self, as_of_us: Moments) -> tuple[Moments, Moments]:
        """It sees event times in (first, second]."""
        if not self.tumbling:
            return as_of_us - self.length_us, as_of_us
        if self.timezone:
            return self._calendar_edges(as_of_us)
        end_us = as_of_us - as_of_us % self.length_us
        return end_us - self.length_us - 1, end_us - 1

    def moves_us(self, as_of_us: Moments) -> Moments:
        """When the edges of a tumbling window move next."""
        if not self.timezone:
            return as_of_us - as_of_us % self.length_us + self.length_us
        end, days = self._calendar_end(as_of_us)
        return midnights_us(end + days, self.timezone)

    def _calendar_edges(self, as_of_us: Moments) -> tuple[Moments, Moments]:
        end, days = self._calendar_end(as_of_us)
        return (
            midnights_us(end - days, self.timezone) - 1,
            midnights_us(end, self.timezone) - 1,
        )

    def _calendar_end(self, as_of_us: Moments) -> tuple[Moments, int]:
        """The local day with which the last complete window ended; how many days it has."""
        days = self.length_us // DAY_US
        shown = np.minimum(np.maximum(as_of_us, FIRST_US + self.reach_us), LAST_US)
        today = local_seconds(shown, self.timezone) // DAY_S
        return today - today % days, days

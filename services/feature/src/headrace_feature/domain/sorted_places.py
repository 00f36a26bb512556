# SPDX-License-Identifier: Apache-2.0
"""Questions about sorted rows, many at a time: where a moment lies, and what a range holds."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

LINE_MAX = 2**62
Ints = NDArray[np.int64]


class Line:
    """Pairs of (entity, moment) in order, and how many of them are not after another pair.

    Entities lie one behind the other on one line of int64. Where their times are too long for it,
    a moment is replaced by its rank.
    """

    def __init__(self, entity: Ints, moments_us: Ints) -> None:
        self._base_us = int(moments_us.min(initial=LINE_MAX))
        span_us = int(moments_us.max(initial=0)) - self._base_us
        self._moments: Ints | None = None
        if (int(entity.max(initial=0)) + 2) * (span_us + 3) >= LINE_MAX:
            self._moments = np.unique(moments_us)
            span_us = len(self._moments)
        self._span = max(span_us, 0) + 2
        line = self._line(entity, moments_us)
        self.order = np.argsort(line)
        self._ordered = line[self.order]

    def places(self, entity: Ints, moments_us: Ints) -> Ints:
        return np.searchsorted(self._ordered, self._line(entity, moments_us), "right")

    def _line(self, entity: Ints, moments_us: Ints) -> Ints:
        """A moment before the first is 0, one behind the last the last of the entity's."""
        if self._moments is None:
            within = np.clip(moments_us - self._base_us + 1, 0, self._span - 1)
        else:
            within = np.searchsorted(self._moments, moments_us, "right")
        return entity * self._span + within


class Extremes:
    """The least or greatest of any range of values, those not `counted` left out.

    Level k holds the extreme of the 2**k values from each place on; two of them cover a range
    (Bender and Farach-Colton, The LCA Problem Revisited, 2000). Levels are made when a range needs
    them.
    """

    def __init__(self, values: NDArray[Any], counted: NDArray[np.bool_], aggregate: str) -> None:
        limits = (np.finfo if values.dtype == np.float64 else np.iinfo)(values.dtype)
        self.ufunc: Any = np.maximum if aggregate == "max" else np.minimum
        self._neutral = limits.min if aggregate == "max" else limits.max
        self._levels = [np.where(counted, values, np.array(self._neutral, dtype=values.dtype))]
        self._lock = threading.Lock()

    def of(self, first: Ints, last: Ints) -> NDArray[Any]:
        """In the type of the values; whatever leaves all others as they are where there is none."""
        answers = np.full(len(first), self._neutral, dtype=self._levels[0].dtype)
        level = np.frexp(np.maximum(last - first, 0).astype(np.float64))[1] - 1
        for number in range(int(level.max(initial=-1)) + 1):
            at = np.flatnonzero(level == number)
            values = self._level(number)
            low, high = values[first[at]], values[last[at] - (1 << number)]
            answers[at] = self.ufunc(low, high)
        return answers

    def last_at_most(self, first: Ints, last: Ints, bound: Ints) -> Ints:
        """The last place in each range whose value is at most the row's bound, or -1.

        Of the least values. All that lies behind it is beyond the bound: it is passed over in
        steps of halved length.
        """
        place = last.copy()
        for number in reversed(range(int((last - first).max(initial=0)).bit_length())):
            start = place - (1 << number)
            at = np.flatnonzero(start >= first)
            beyond = at[self._level(number)[start[at]] > bound[at]]
            place[beyond] = start[beyond]
        return np.where(place > first, place - 1, -1)

    def _level(self, number: int) -> NDArray[Any]:
        with self._lock:
            while len(self._levels) <= number:
                below, half = self._levels[-1], 1 << (len(self._levels) - 1)
                self._levels.append(self.ufunc(below[:-half], below[half:]))
        return self._levels[number]

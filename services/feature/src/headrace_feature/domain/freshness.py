# SPDX-License-Identifier: Apache-2.0
"""Delays, counted in buckets that grow by 4.4 %: the counts of several processes can be added."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

BUCKETS_PER_OCTAVE = 16
OCTAVES = 32  # 1 ms to 49 days


class DelayHistogram:
    """Counts of delays in milliseconds; any thread may write or ask."""

    def __init__(self) -> None:
        self._counts = np.zeros(BUCKETS_PER_OCTAVE * OCTAVES, dtype=np.int64)
        self._lock = threading.Lock()

    def add(self, delays_ms: NDArray[np.int64]) -> None:
        places = np.ceil(BUCKETS_PER_OCTAVE * np.log2(np.maximum(delays_ms, 1)))
        counts = np.bincount(
            np.minimum(places, len(self._counts) - 1).astype(np.int64),
            minlength=len(self._counts),
        )
        with self._lock:
            self._counts += counts

    def total(self) -> int:
        with self._lock:
            return int(self._counts.sum())

    def quantile_ms(self, share: float) -> float | None:
        """The upper edge of the bucket that holds this share; None without delays."""
        with self._lock:
            reached = np.cumsum(self._counts)
        if not reached[-1]:
            return None
        place = int(np.searchsorted(reached, share * reached[-1]))
        return float(2 ** (place / BUCKETS_PER_OCTAVE))

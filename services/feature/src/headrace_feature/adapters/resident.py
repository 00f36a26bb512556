# SPDX-License-Identifier: Apache-2.0
"""How many pages of files the process holds, of which mapped runs are the most.

A fault maps the pages around it too, up to 64 KiB that are in the system's cache, so that a read of
a few rows in a large run makes as much resident as it would take to read a thousand.
"""

from __future__ import annotations

import os
import sys

STATM = "/proc/self/statm"  # proc(5): size, resident, shared (files'), ... in pages
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ResidentFiles:
    """Says when the pages of files grew by `grown_bytes_max` since they were last given back."""

    def __init__(self, grown_bytes_max: int) -> None:
        self._grown_max = grown_bytes_max
        # Elsewhere than on Linux nobody says, and nothing ever grows.
        self._statm = os.open(STATM, os.O_RDONLY) if sys.platform == "linux" else None
        self._least = self._bytes()

    def grown(self) -> bool:
        return self._bytes() - self._least > self._grown_max

    def given_back(self) -> None:
        """What is left is what cannot be given back."""
        self._least = self._bytes()

    def _bytes(self) -> int:
        if self._statm is None:
            return 0
        return PAGE_BYTES * int(os.pread(self._statm, 128, 0).split()[2])

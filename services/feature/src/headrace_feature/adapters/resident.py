# SPDX-License-Identifier: Apache-2.0
"""How many pages of files the process holds, of which mapped runs are the most."""

from __future__ import annotations

import os
from pathlib import Path

STATM = Path("/proc/self/statm")  # proc(5): size, resident, shared (files'), ... in pages
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ResidentFiles:
    """Says when the pages of files grew by `grown_bytes_max` since they were last given back."""

    def __init__(self, grown_bytes_max: int) -> None:
        self._grown_max, self._least = grown_bytes_max, 0
        self._least = self.bytes()

    def bytes(self) -> int:
        """0 where the system does not say; then nothing ever grows."""
        try:
            return PAGE_BYTES * int(STATM.read_text().split()[2])
        except FileNotFoundError:
            return 0

    def grown(self) -> bool:
        return self.bytes() - self._least > self._grown_max

    def given_back(self) -> None:
        """What is left is what cannot be given back."""
        self._least = self.bytes()

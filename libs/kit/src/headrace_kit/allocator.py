# SPDX-License-Identifier: Apache-2.0
"""Gives freed memory back to the system: glibc keeps some 64 MiB of it for each thread's arena."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any


def give_back_freed() -> None:
    """After work that allocated much in several threads and is over; elsewhere than on glibc
    nothing is done.
    """
    if (trim := _trim()) is not None:
        trim(0)


@lru_cache(maxsize=1)
def _trim() -> Any:
    """malloc_trim(3), if the process has it."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)

# SPDX-License-Identifier: Apache-2.0
"""Freed memory goes back to the system."""

import sys
from pathlib import Path

import pytest

from headrace_kit.allocator import _trim, give_back_freed

BLOCK_BYTES, BLOCKS = 64 << 10, 1_024


@pytest.mark.skipif(sys.platform != "linux" or _trim() is None, reason="glibc alone keeps memory")
def test_freed_blocks_below_one_that_is_held_go_back():
    blocks = [b"x" * BLOCK_BYTES for _ in range(BLOCKS)]
    held = blocks[-1]  # glibc by itself gives back what is at the end of its heap, never below
    resident = _resident_bytes()
    blocks.clear()
    give_back_freed()

    assert resident - _resident_bytes() > BLOCKS * BLOCK_BYTES // 2
    assert BLOCK_BYTES == len(held)


def _resident_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1_024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))

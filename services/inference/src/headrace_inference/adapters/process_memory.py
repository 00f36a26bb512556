# SPDX-License-Identifier: Apache-2.0
"""What the C library knows of this process's memory: how much is taken, and how to give back.

glibc counts what all its arenas hold, which the resident size does not tell: freed memory stays
with the process until it is trimmed, or for good where it lies between what is used. Another C
library has neither call: nothing is measured there, and a model counts as large as its artifact.

Sources: mallinfo(3), malloc_trim(3); cgroup v2 `memory.max`, v1 `memory.limit_in_bytes`.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


_libc = ctypes.CDLL(None)
_mallinfo2 = getattr(_libc, "mallinfo2", None)
_malloc_trim = getattr(_libc, "malloc_trim", None)
if _mallinfo2 is not None:
    _mallinfo2.restype = _Mallinfo2


def allocated_bytes() -> int:
    """Of all threads together; 0 where the C library does not tell."""
    if _mallinfo2 is None:
        return 0
    info = _mallinfo2()
    return int(info.uordblks + info.hblkhd)


def give_back() -> None:
    """Gives freed memory to the system: a model's weights leave whole pages."""
    if _malloc_trim is not None:
        _malloc_trim(0)


def memory_allowed_bytes(cgroup: Path = CGROUP) -> int:
    """The least of the machine's memory and the container's limit."""
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = map(_limit, (cgroup / "memory.max", cgroup / "memory/memory.limit_in_bytes"))
    return min([machine_bytes, *(limit for limit in limits if limit is not None)])


def _limit(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None

# SPDX-License-Identifier: Apache-2.0
"""What the C library knows of this process's memory: how much is taken, and how to give back.

glibc counts what all its arenas hold, which the resident size does not tell: freed memory stays
with the process until it is trimmed, or for good where it lies between what is used. Another C
library has neither call: nothing is measured there, and a model counts as large as its artifact.

What was there for a moment only the kernel knows: the peak of the resident size, which can be set
back (Linux; elsewhere it is not told).

Sources: mallinfo(3), malloc_trim(3); cgroup v2 `memory.max`, v1 `memory.limit_in_bytes`;
proc_pid_clear_refs(5), proc_pid_status(5).
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
PROCESS = Path("/proc/self")
PEAK_AGAIN = "5"


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


def peak_growth(process: Path = PROCESS) -> Callable[[], int]:
    """Tells how far the resident size rose above what it is now, at the peak since that was asked
    last, of all threads together; 0 where the kernel does not tell. There is one peak: who asks
    takes it from who asked before.
    """
    give_back()  # once, as all others wait for it: what is free would be taken again unseen
    try:
        _forget_peak(process)
        before_bytes = _status_bytes(process, "VmRSS")
    except OSError:
        return lambda: 0

    def told() -> int:
        grown_bytes = _status_bytes(process, "VmHWM") - before_bytes
        _forget_peak(process)
        return max(0, grown_bytes)

    return told


def _forget_peak(process: Path) -> None:
    (process / "clear_refs").write_text(PEAK_AGAIN, encoding="ascii")


def _status_bytes(process: Path, name: str) -> int:
    """Raises OSError where there is no such line."""
    text = (process / "status").read_text(encoding="ascii", errors="replace")
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    if found is None:
        raise OSError(f"no {name}")
    return int(found[1]) * 1024


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

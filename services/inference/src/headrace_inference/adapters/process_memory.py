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
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
PROCESS = Path("/proc/self")
PEAK_AGAIN = "5"
# So little of many rows may be another thread's.
NOISE_BYTES = 4 << 20


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


class PeakGrowth:
    """How far the resident size rose above what it was at the begin, of all threads together.

    There is one peak of a process: who begins takes it from who began before. 0 where the kernel
    does not tell.
    """

    def __init__(self, process: Path = PROCESS) -> None:
        self._process = process
        give_back()  # once, as all others wait for it: what is free would be taken again unseen
        self._begin()

    def bytes(self) -> int:
        """At the peak since this or `moved` was asked last."""
        grown_bytes = self._told("VmHWM") - self._before_bytes
        self._forget_peak()
        return max(0, grown_bytes)

    def moved(self) -> bool:
        """Whether it is elsewhere now, once what is free is given back: others took or freed as
        much meanwhile. Then this begins anew.
        """
        if self._near():
            return False
        give_back()
        if self._near():
            self._forget_peak()  # of what was free and with the process still
            return False
        self._begin()
        return True

    def _begin(self) -> None:
        self._forget_peak()
        self._before_bytes = self._told("VmRSS")

    def _near(self) -> bool:
        return abs(self._told("VmRSS") - self._before_bytes) <= NOISE_BYTES

    def _forget_peak(self) -> None:
        with suppress(OSError):
            (self._process / "clear_refs").write_text(PEAK_AGAIN, encoding="ascii")

    def _told(self, name: str) -> int:
        try:
            return _status_bytes(self._process, name)
        except OSError:
            return 0


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

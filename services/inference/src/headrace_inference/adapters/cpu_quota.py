# SPDX-License-Identifier: Apache-2.0
"""How many CPUs this process may use: the least of its affinity and its cgroup's quota.

Sources: sched(7); cgroup v2 `cpu.max` ("<quota us>|max <period us>"); v1 `cpu.cfs_quota_us`.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def cpus_allowed(cgroup: Path = CGROUP) -> int:
    allowed = len(os.sched_getaffinity(0))
    quota = _quota_v2(cgroup / "cpu.max") or _quota_v1(cgroup / "cpu")
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def _quota_v2(file: Path) -> float | None:
    words = _words(file)
    return None if len(words) != 2 or words[0] == "max" else int(words[0]) / int(words[1])


def _quota_v1(folder: Path) -> float | None:
    quota, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
    return None if not quota or not period or int(quota[0]) < 0 else int(quota[0]) / int(period[0])


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").split()
    except OSError:
        return []

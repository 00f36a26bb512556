# SPDX-License-Identifier: Apache-2.0
"""Advisory file locks: the kernel drops them when the holder dies, so none is ever stale."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_INTERVAL_S = 0.05


@contextmanager
def exclusive(path: Path, *, deadline_s: float) -> Iterator[None]:
    """Holds the lock on `path`; raises TimeoutError when another holds it past the deadline."""
    path.parent.mkdir(parents=True, exist_ok=True)
    give_up = time.monotonic() + deadline_s
    with path.open("a") as file:
        while not _try_lock(file.fileno()):
            if time.monotonic() >= give_up:
                raise TimeoutError(f"{path} is held by another process")
            time.sleep(POLL_INTERVAL_S)
        yield


def lock_for_good(path: Path) -> bool:
    """Hold the lock on `path` until this process ends; False when it is held already."""
    fileno = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if _try_lock(fileno):
        return True
    os.close(fileno)
    return False


def held(path: Path) -> bool:
    """Whether some process holds the lock on `path` now."""
    if not path.exists():
        return False
    with path.open("a") as file:
        return not _try_lock(file.fileno())


def _try_lock(fileno: int) -> bool:
    try:
        fcntl.flock(fileno, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

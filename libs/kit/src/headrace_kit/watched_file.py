# SPDX-License-Identifier: Apache-2.0
"""A file that says whom to believe: read at the start, and again when it has changed.

One that goes wrong later leaves what it said before: a slip of the pen shuts nobody out, and lets
nobody in.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from headrace.errors import HeadraceError
from headrace_kit.telemetry import gauge

LOOK_INTERVAL_S = 1.0
Told = TypeVar("Told")

log = structlog.get_logger(__name__)


class WatchedFile(Generic[Told]):
    """What `read` makes of the file; `<setting>_wrong` is 1 while it can make nothing of it."""

    def __init__(
        self, service: str, setting: str, file: Path, read: Callable[[Path], Told]
    ) -> None:
        """Raises what `read` raises."""
        self._setting, self._file, self._read = setting, file, read
        self._wrong = gauge(service, f"{setting}_wrong", "1 while it cannot be read.")
        self._lock = threading.Lock()
        self._seen = _fingerprint(file)
        self._told = read(file)
        self._look_at_s = 0.0

    def told(self) -> Told:
        """As of a second ago at most."""
        if time.monotonic() >= self._look_at_s:
            with self._lock:
                if time.monotonic() >= self._look_at_s:  # nobody has looked meanwhile
                    self._look()
                    self._look_at_s = time.monotonic() + LOOK_INTERVAL_S
        return self._told

    def _look(self) -> None:
        seen = _fingerprint(self._file)
        try:
            if seen is None or seen != self._seen:
                self._told = self._read(self._file)
                self._seen = seen
            self._wrong.set(0)
        except HeadraceError as err:
            log.error("file_wrong", setting=self._setting, error=str(err))
            self._wrong.set(1)


def _fingerprint(file: Path) -> object:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns

# SPDX-License-Identifier: Apache-2.0
"""How many rows of each endpoint this worker's log has been given, over all its restarts.

The numbers lie in mapped files: what is written there stands when the process is killed, so that
rows which were answered and not yet logged are a gap that the next records tell of. A machine that
goes down may set a number back to what its disk has.
"""

from __future__ import annotations

import mmap
import secrets
import struct
import threading
from pathlib import Path

COUNT = struct.Struct("<q")


class AnsweredCounts:
    """One file for each endpoint, and one with the writer's name; `folder` is the worker's own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._maps: dict[str, mmap.mmap] = {}
        # Of endpoints whose file cannot be opened just now: no file descriptor may be left.
        self._held: dict[str, int] = {}
        self._opening = threading.Lock()
        self.writer = _writer(folder / "writer.id")

    def add(self, endpoint: str, rows: int) -> None:
        """An answer does not fail for its count."""
        try:
            found = self._maps.get(endpoint) or self._open(endpoint)
        except OSError:
            with self._opening:  # the log's thread may have opened it meanwhile
                if endpoint not in self._maps:
                    self._held[endpoint] = self._held.get(endpoint, 0) + rows
                    return
                found = self._maps[endpoint]
        COUNT.pack_into(found, 0, COUNT.unpack_from(found)[0] + rows)

    def read(self, endpoint: str) -> int:
        """Raises OSError while the number cannot be known."""
        found = self._maps.get(endpoint) or self._open(endpoint)
        return int(COUNT.unpack_from(found)[0])

    def _open(self, endpoint: str) -> mmap.mmap:
        path = self._folder / f"{endpoint}.count"
        with self._opening, path.open("a+b") as file:
            if endpoint not in self._maps:
                if file.tell() < COUNT.size:
                    file.truncate(COUNT.size)
                found = mmap.mmap(file.fileno(), COUNT.size)
                held = self._held.pop(endpoint, 0)
                COUNT.pack_into(found, 0, COUNT.unpack_from(found)[0] + held)
                self._maps[endpoint] = found
            return self._maps[endpoint]


def _writer(path: Path) -> str:
    if not path.exists():
        made = path.with_suffix(".new")
        made.write_text(secrets.token_hex(8))
        made.replace(path)
    return path.read_text()

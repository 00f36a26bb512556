# SPDX-License-Identifier: Apache-2.0
"""AttemptLog in a small file: it outlives the process, not the machine, so nothing is synced.

It is written in its place, twice a batch: to replace a file waits for the disk on some systems.
What a kill or a full disk cuts off lies before the rest of what was there; a checksum tells.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import structlog

from headrace_kit.disk import needing_room
from headrace_kit.suspects import Attempt, Place

ENTRIES_BYTES_MAX = 1 << 20

log = structlog.get_logger(__name__)


class FileAttemptLog:
    """One file, whose first line counts."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "attempts.json"
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)

    def read(self) -> dict[Place, Attempt]:
        line, _, _ = os.pread(self._file, ENTRIES_BYTES_MAX, 0).partition(b"\n")
        checksum, _, entries = line.partition(b" ")
        if checksum != _checksum(entries):
            if line:
                log.warning("attempts_unreadable")
            return {}
        found = json.loads(entries)
        return {(topic, partition): Attempt(*attempt) for topic, partition, *attempt in found}

    def write(self, attempts: Mapping[Place, Attempt]) -> None:
        """Raises Busy DISK_FULL: what would be worked on waits."""
        told = [[*place, each.first, each.end, each.deaths] for place, each in attempts.items()]
        entries, written = json.dumps(told).encode(), 0
        line = b"%b %b\n" % (_checksum(entries), entries)
        with needing_room(self._path):
            while written < len(line):  # a disk that fills up takes a part, then nothing
                written += os.pwrite(self._file, line[written:], written)


def _checksum(entries: bytes) -> bytes:
    return b"%08x" % zlib.crc32(entries)

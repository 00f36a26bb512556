# SPDX-License-Identifier: Apache-2.0
"""Spool on the disk of the data folder: files without a name, gone with whoever holds them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from headrace_kit.disk import needing_room


class DiskSpool:
    """Called, it gives a new file; Busy DISK_FULL where no room is left for what is written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def __call__(self) -> Iterator[IO[bytes]]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with needing_room(self._folder), TemporaryFile(dir=self._folder) as file:
            yield file

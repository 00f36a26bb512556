# SPDX-License-Identifier: Apache-2.0
"""The wall clock of one process, put forward and back while it runs (see wall_clock.c)."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("wall_clock.c")
BUILD_TIMEOUT_S = 60.0


class WallClock:
    """Of every process that is started with `environment`; right until it is put elsewhere."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError where there is no C compiler."""
        library, self._file = folder / "wall_clock.so", folder / "wall_clock"
        command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-o", str(library), str(SOURCE)]
        subprocess.run(command, check=True, timeout=BUILD_TIMEOUT_S)
        self._file.write_bytes(struct.pack("q", 0))
        self.environment = {"LD_PRELOAD": str(library), "WALL_CLOCK_FILE": str(self._file)}

    def put_ahead(self, seconds: int) -> None:
        """Ahead of the truth by so much, or behind it."""
        with self._file.open("r+b") as file:  # in place: it is mapped
            file.write(struct.pack("q", seconds))

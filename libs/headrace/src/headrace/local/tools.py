# SPDX-License-Identifier: Apache-2.0
"""A folder of tools that are downloaded or built once.

A tool is made beside its place and renamed into it, under a lock: it is there whole or not at all,
and two processes that need it at the same time make it once.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from headrace.local.locks import exclusive

Progress = Callable[[str], None]
MAKE_DEADLINE_S = 900.0


def silent(line: str) -> None:
    """The progress of a caller who wants none."""


@dataclass(frozen=True, slots=True)
class ToolCache:
    """Tools by name in one folder; `progress` hears a line whenever a slow step advances."""

    directory: Path
    progress: Progress = silent

    def provide(self, name: str, make: Callable[[Path], None]) -> Path:
        """The folder of the tool, as a whole path: Go and children elsewhere take no other.

        `make` fills an empty one when the tool is not there yet.
        """
        directory = self.directory.absolute()
        target = directory / name
        if target.exists():
            return target
        directory.mkdir(parents=True, exist_ok=True)
        with exclusive(directory / f"{name}.lock", deadline_s=MAKE_DEADLINE_S):
            if not target.exists():
                partial = directory / f"{name}.partial"
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                make(partial)
                partial.rename(target)
        return target

# SPDX-License-Identifier: Apache-2.0
"""Where the files of large runs are: a folder for each, named by its layout and its number."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from headrace_feature.adapters.run_files import from_bytes, sync_folder
from headrace_feature.adapters.run_tiers import HeldRun
from headrace_feature.adapters.stored_run import StoredRun


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A run that was made elsewhere: `head` and a folder for a large one, or bytes."""

    head: bytes = b""
    folder: Path | None = None
    stored: bytes = b""


@dataclass(frozen=True, slots=True)
class RunFolders:
    """All under `root`."""

    root: Path

    @property
    def arrivals(self) -> Path:
        return self.root / "arrivals"

    def of(self, layout: bytes, number: int) -> Path:
        return self.root / layout.hex() / str(number)

    def opened(self, layout: bytes, number: int, head: bytes) -> HeldRun:
        return HeldRun(number, StoredRun(self.of(layout, number), head))

    def moved_in(self, layout: bytes, number: int, arrival: Arrival) -> HeldRun:
        if arrival.folder is None:
            return HeldRun(number, from_bytes(arrival.stored))
        path = self.of(layout, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        if arrival.folder.exists():  # else it was moved in before, by a try that found no room
            arrival.folder.rename(path)
        sync_folder(path.parent)
        return self.opened(layout, number, arrival.head)

    def remove(self, layout: bytes, runs: Collection[HeldRun]) -> None:
        """A reader that still has a run goes on reading it: the files outlive their names."""
        for each in runs:
            if each.large:
                self.discard(layout, each.number)

    def discard(self, layout: bytes, number: int) -> None:
        """Also what is written of it only in part, or not at all."""
        shutil.rmtree(self.of(layout, number), ignore_errors=True)

    def remove_others(self, known: Collection[Path]) -> None:
        """What a process left that ended in a merge, or between a commit and its removal."""
        for folder in self.root.glob("*/*"):
            if folder not in known:
                shutil.rmtree(folder)

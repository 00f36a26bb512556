# SPDX-License-Identifier: Apache-2.0
"""Runs that are made on disk beside the store, until all of them are there; a kill loses little.

What the note names is whole and durable. What it does not name was in the making: it is removed,
and whoever goes on does so from the note. Runs of like size are merged, as in the store.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from headrace.errors import Busy
from headrace_feature.adapters.run_files import (
    sync_folder,
    write_folder,
)
from headrace_feature.adapters.run_folders import Arrival
from headrace_feature.adapters.run_tiers import (
    ROWS_SMALL_MAX,
    HeldRun,
    into_one,
    too_many,
)
from headrace_feature.adapters.stored_run import StoredRun, head_of
from headrace_feature.domain.observations import Run, merged

NOTE = "note.json"


@dataclass(frozen=True, slots=True)
class Filling:
    """What is filled in: from which version of the archive, which partitions of how many, and the
    event time before which nothing is needed.
    """

    version: int
    floor_us: int
    partitions: tuple[int, ...]
    partition_count: int
    files_sha256: str = ""  # of the version; empty in notes of an older release

    def covers(self, partitions: Collection[int], partition_count: int) -> bool:
        return partition_count == self.partition_count and set(partitions) <= {*self.partitions}


class StagedRuns:
    """The runs of one layout, in a folder of their own; one thread."""

    def __init__(
        self,
        folder: Path,
        filling: Filling,
        *,
        bytes_max: int,
        files_done: int = 0,
        held: Sequence[HeldRun] = (),
    ) -> None:
        self.filling, self.files_done = filling, files_done
        self._folder, self._bytes_max, self._held = folder, bytes_max, list(held)
        self._next_number = max((each.number for each in held), default=-1) + 1
        self._gathered: list[Run] = []
        self.unnoted = False

    @classmethod
    def begun(cls, folder: Path, filling: Filling, *, bytes_max: int) -> Self:
        """With nothing; what was there goes."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        made = cls(folder, filling, bytes_max=bytes_max)
        made.note(0)
        return made

    @classmethod
    def resumed(cls, folder: Path, *, bytes_max: int) -> Self | None:
        """What a note tells of; None without one, or when a run is missing."""
        try:
            note = json.loads((folder / NOTE).read_bytes())
            held = [_held(folder, *run) for run in note["runs"]]
        except FileNotFoundError:
            return None
        for each in folder.iterdir():
            if each.is_dir() and int(each.name) not in {run.number for run in held}:
                shutil.rmtree(each)
        told = note["filling"]
        filling = Filling(**told | {"partitions": tuple(told["partitions"])})
        return cls(folder, filling, bytes_max=bytes_max, files_done=note["files_done"], held=held)

    @property
    def rows(self) -> int:
        return sum(len(each.run) for each in self._held)

    def add(self, run: Run) -> None:
        """Short ones are gathered in memory. Raises Busy STATE_FULL."""
        self._gathered.append(run)
        if sum(map(len, self._gathered)) >= ROWS_SMALL_MAX:
            self._write()

    def _write(self) -> None:
        if sum(each.folder_bytes for each in self._held) >= self._bytes_max:
            raise Busy("STATE_FULL", path=self._folder.name, bytes_max=self._bytes_max)
        run, number = merged(self._gathered, floor_us=self.filling.floor_us), self._next_number
        for _ in write_folder(self._folder / str(number), [run]):
            pass
        self._hold(number, head_of([run]))
        self._gathered, self.unnoted = [], True

    def note(self, files_done: int) -> None:
        """So many files are in the runs, for good. Raises Busy STATE_FULL."""
        if self._gathered:
            self._write()
        self.files_done, self.unnoted = files_done, False
        note = {
            "filling": asdict(self.filling),
            "files_done": files_done,
            "runs": [(each.number, head_of([each.run]).hex()) for each in self._held],
        }
        fresh = self._folder / f"{NOTE}.new"
        with fresh.open("w") as file:
            json.dump(note, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(self._folder / NOTE)
        sync_folder(self._folder)

    def merge(self) -> Iterator[None]:
        """Runs of like size into one, a piece a step, until there are few of each."""
        while crowded := too_many(self._held, large=True) or too_many(self._held, large=False):
            sources, number = crowded[0], self._next_number
            head, steps = into_one(
                [each.run for each in sources],
                self._folder / str(number),
                floor_us=self.filling.floor_us,
            )
            yield from steps
            self._held = [each for each in self._held if each not in sources]
            self._hold(number, head)
            self.note(self.files_done)
            for each in sources:
                shutil.rmtree(self._folder / str(each.number))

    def arrivals(self) -> list[Arrival]:
        """The runs, for a store that takes their folders."""
        return [
            Arrival(head=head_of([each.run]), folder=self._folder / str(each.number))
            for each in self._held
        ]

    def _hold(self, number: int, head: bytes) -> None:
        self._held.append(_held(self._folder, number, head.hex()))
        self._next_number = number + 1


def _held(folder: Path, number: int, head: str) -> HeldRun:
    return HeldRun(number, StoredRun(folder / str(number), bytes.fromhex(head)))

# SPDX-License-Identifier: Apache-2.0
"""What a supervisor tells other processes: one file, replaced whole, and a lock that says it lives.

A process is named by pid and creation time together, so that a pid that the kernel gave to a
stranger is never signalled or measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from headrace.errors import Invalid, Unavailable
from headrace.local.locks import held

STARTING, READY, UNREADY = "starting", "ready", "unready"
WAITING, FAILED, STOPPED = "waiting", "failed", "stopped"


@dataclass(frozen=True, slots=True)
class DataFolder:
    """The places inside `.headrace` that the local runtime shares with other processes."""

    root: Path

    @property
    def run(self) -> Path:
        """Where state and lock are."""
        return self.root.absolute() / "run"

    @property
    def state(self) -> Path:
        """What the supervisor last said."""
        return self.run / "state.json"

    @property
    def lock(self) -> Path:
        """Held by the one supervisor of this folder."""
        return self.run / "lock"

    @property
    def logs(self) -> Path:
        """One log per process."""
        return self.root.absolute() / "logs"


@dataclass(frozen=True, slots=True)
class ProcessState:
    """One supervised process; `pid` and `started_at_s` (since the epoch) are None when down."""

    name: str
    state: str
    pid: int | None
    started_at_s: float | None
    restarts: int
    ports: Mapping[str, int]
    log: str
    last_end: str = ""

    def process(self) -> psutil.Process | None:
        """The process, if it still runs."""
        if self.pid is None or self.started_at_s is None:
            return None
        return find_process(self.pid, self.started_at_s)


@dataclass(frozen=True, slots=True)
class RunState:
    """A supervisor and its processes, in the order of their start."""

    pid: int
    started_at_s: float
    processes: tuple[ProcessState, ...]

    @property
    def ready(self) -> bool:
        """Whether every process is ready."""
        return all(process.state == READY for process in self.processes)

    def supervisor(self) -> psutil.Process | None:
        """The supervisor, if it still runs."""
        return find_process(self.pid, self.started_at_s)


def write_state(folder: DataFolder, state: RunState) -> None:
    """Replaces the file."""
    fresh = folder.state.with_suffix(".partial")
    fresh.write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")
    fresh.replace(folder.state)


def read_state(folder: DataFolder) -> RunState | None:
    """What the last supervisor said, whether it lives or not; None when that cannot be known: there
    was none, or one of another version.
    """
    try:
        content = json.loads(folder.state.read_text(encoding="utf-8"))
        processes = tuple(ProcessState(**each) for each in content.pop("processes"))
        return RunState(**content, processes=processes)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def live_state(folder: DataFolder) -> RunState | None:
    """What the supervisor says that runs now; None when none does.

    Raises Invalid BAD_SETTING where one runs and cannot be understood.
    """
    state = read_state(folder)
    if state is None and folder.state.exists() and running(folder):
        problem = (
            "it cannot be read, or another version of headrace wrote it: end the headrace up that "
            "runs on this folder, by Ctrl-C or kill, and start it again"
        )
        raise Invalid("BAD_SETTING", file=folder.state, problem=problem)
    return state if state is not None and state.supervisor() is not None else None


def running(folder: DataFolder) -> bool:
    """Whether a supervisor runs on the folder now. Raises Unavailable DATA_FOLDER_UNUSABLE."""
    try:
        return held(folder.lock)
    except OSError as err:
        raise Unavailable("DATA_FOLDER_UNUSABLE", folder=folder.root, problem=err.strerror) from err


def find_process(pid: int, started_at_s: float) -> psutil.Process | None:
    """The process of that pid, if it is the one that was started then and has not ended."""
    try:
        process = psutil.Process(pid)
        if process.create_time() == started_at_s and process.status() != psutil.STATUS_ZOMBIE:
            return process
    except psutil.NoSuchProcess:
        pass
    return None


def rss_mb(process: psutil.Process) -> float:
    """Resident MB of a process and its descendants; pages that they share count for each."""
    total_bytes = 0
    for each in (process, *process.children(recursive=True)):
        try:
            total_bytes += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total_bytes / 1e6


def rss_mb_by_service(state: RunState) -> dict[str, float]:
    """Resident memory of each process that runs, by its name."""
    found = {each.name: each.process() for each in state.processes}
    return {name: round(rss_mb(process), 1) for name, process in found.items() if process}

# SPDX-License-Identifier: Apache-2.0
"""Commands to a supervisor from another process: start one detached, stop it, clear up after it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import psutil

from headrace.errors import Unavailable
from headrace.local.process import RUN_MARK, TOLD, ended, tail, told_error
from headrace.local.state import DataFolder, live_state, read_state, running

POLL_INTERVAL_S = 0.05
KILL_TIMEOUT_S = 5.0
STOP_DEADLINE_S = 90.0


def start_detached(
    command: Sequence[str],
    folder: DataFolder,
    *,
    deadline_s: float,
    report: Callable[[str], None] = lambda line: None,
) -> subprocess.Popen[bytes]:
    """Runs `command`, which must run a supervisor on `folder`, in a session of its own.

    Returns when all its processes are ready; raises Unavailable START_FAILED when they are not, and
    DATA_FOLDER_UNUSABLE where nothing can be written into the folder.
    `report` hears what the command says meanwhile, but for the error that it ends with.
    """
    log = folder.logs / "supervisor.log"
    with _appended(log, folder) as output:
        start = output.tell()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    said = _Said(log, start, report)

    def settled() -> bool:
        ended_now = process.poll() is not None  # before its last words are read
        state = read_state(folder)
        ready = state is not None and state.pid == process.pid and state.ready
        said.report()
        return ready or ended_now

    if _wait(settled, deadline_s) and process.returncode is None:
        return process
    code = process.poll()
    if code is None:
        stop(folder, deadline_s=STOP_DEADLINE_S)
        process.wait(KILL_TIMEOUT_S)
    raise Unavailable(
        "START_FAILED",
        process="supervisor",
        cause=f"not ready in {deadline_s:g} s" if code is None else ended(code),
        said=told_error(tail(log, start)),
        log=log,
    )


def _appended(log: Path, folder: DataFolder) -> BinaryIO:
    """Raises Unavailable DATA_FOLDER_UNUSABLE."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("ab")
    except OSError as err:
        raise Unavailable("DATA_FOLDER_UNUSABLE", folder=folder.root, problem=err.strerror) from err


class _Said:
    """The lines of a log as they come, up to the first that tells an error."""

    def __init__(self, log: Path, start: int, report: Callable[[str], None]) -> None:
        self._log, self._next, self._report, self._rest = log, start, report, b""

    def report(self) -> None:
        with self._log.open("rb") as file:
            file.seek(self._next)
            read = file.read()
        self._next += len(read)
        *lines, self._rest = (self._rest + read).split(b"\n")
        for line in lines:
            told = line.decode(errors="replace")
            if TOLD.match(told):
                self._report = lambda line: None
            self._report(told)


def stop(folder: DataFolder, *, deadline_s: float) -> bool:
    """Stops the supervisor and all that it started; True if there was something to stop.

    A supervisor that is still there after the deadline is killed, and its processes with it.
    Raises Invalid BAD_SETTING for one that cannot be understood.
    """
    state = live_state(folder)
    found = running(folder)
    if found and state is not None and (supervisor := state.supervisor()):
        supervisor.terminate()
        if not _wait(lambda: not running(folder), deadline_s):
            supervisor.kill()
            _wait(lambda: not running(folder), KILL_TIMEOUT_S)
    return clear_leftovers(folder) > 0 or found


def clear_leftovers(folder: DataFolder) -> int:
    """Kills what a supervisor that was killed left behind; returns how many processes that were.

    Only for a folder without a living supervisor. Finds the recorded processes, and by a mark in
    their environment also the descendants of those, in whatever session they are.
    """
    state = read_state(folder)
    recorded = [each.process() for each in state.processes] if state else []
    victims = {process.pid: process for process in recorded if process}
    for process in psutil.process_iter():
        if process.pid != os.getpid() and _mark(process) == str(folder.run):
            victims[process.pid] = process
    for process in victims.values():
        with suppress(psutil.NoSuchProcess):
            process.kill()
    if not _wait(lambda: all(map(_gone, victims.values())), KILL_TIMEOUT_S):
        left = ", ".join(str(pid) for pid, process in victims.items() if not _gone(process))
        raise Unavailable("START_FAILED", process="clean-up", cause=f"pids {left} do not end")
    return len(victims)


def _mark(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(RUN_MARK)
    except psutil.Error:  # ended meanwhile, or another user's
        return None


def _gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _wait(condition: Callable[[], bool], deadline_s: float) -> bool:
    give_up = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() >= give_up:
            return False
        time.sleep(POLL_INTERVAL_S)
    return True

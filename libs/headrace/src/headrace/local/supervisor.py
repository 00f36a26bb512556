# SPDX-License-Identifier: Apache-2.0
"""Runs the platform's processes on one machine: ordered start and stop, restart, state, logs.

One thread looks at everything ten times a second, so there is nothing to lock. Children die with it
even when it is killed (see `tether`), and the next start clears up what could still be left.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from headrace.errors import Conflict, HeadraceError, Unavailable
from headrace.local.control import clear_leftovers
from headrace.local.locks import exclusive
from headrace.local.ports import check_free
from headrace.local.process import EXIT_BAD_SETTING, Child, ProcessSpec, ended
from headrace.local.state import (
    FAILED,
    READY,
    STARTING,
    STOPPED,
    UNREADY,
    WAITING,
    DataFolder,
    ProcessState,
    RunState,
    read_state,
    write_state,
)

LOOK_INTERVAL_S = 0.1
PROBE_INTERVAL_S = 2.0
LOG_LOOK_INTERVAL_S = 5.0
WAIT_TOLD_INTERVAL_S = 10.0
# Of all processes together: one that lives may have much to restore, or share few cores.
START_S_MAX = 300.0
LOG_BYTES_MAX = 16 * 1024 * 1024

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How long to wait before the n-th restart in a row, and when to give up."""

    delay_min_s: float = 0.2
    delay_max_s: float = 10.0
    healthy_after_s: float = 30.0
    restarts_max: int = 10

    def delay_s(self, restarts: int) -> float:
        """The wait after that many restarts in a row."""
        return min(self.delay_max_s, self.delay_min_s * 2.0**restarts)


@dataclass(frozen=True, slots=True)
class Stage:
    """Processes that start together; `then` runs once when all are ready, before the next stage."""

    processes: Sequence[ProcessSpec]
    then: Callable[[], object] = lambda: None


class Supervisor:
    """Stages of processes: the processes of a stage start when those before it are ready.

    `plan` answers the stages. It is asked when no other supervisor runs on the folder, so it may
    write there, and may take its time. `report` hears one line per event. All processes together
    have `start_s_max` to be ready.
    """

    def __init__(
        self,
        plan: Callable[[], Sequence[Stage]],
        folder: DataFolder,
        *,
        report: Report,
        policy: RestartPolicy = RestartPolicy(),
        start_s_max: float = START_S_MAX,
    ) -> None:
        self._plan, self._folder = plan, folder
        self._report, self._policy = report, policy
        self._start_s_max = start_s_max
        self._stages: list[_WatchedStage] = []
        self._stopping, self._was_ready = False, threading.Event()
        self._written: RunState | None = None
        self._deaf = False
        self._created_s = psutil.Process().create_time()
        self._logs_due_s = 0.0

    def run(self) -> None:
        """Starts all, watches until `request_stop`, stops all; leaves no process behind.

        Raises Conflict ALREADY_RUNNING, Unavailable PORT_TAKEN or START_FAILED, and what the plan
        raises.
        """
        _make(self._folder)
        with self._only_one():
            clear_leftovers(self._folder)
            self._stages = [self._watched(stage) for stage in self._plan()]
            for watched in self._all():
                check_free(watched.spec.ports)
            try:
                if self._start():
                    self._was_ready.set()
                while not self._stopping:
                    self._look()
                    time.sleep(LOOK_INTERVAL_S)
            finally:
                self._stop()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Runs in a thread for the time of the context, which begins when all are ready."""
        with ThreadPoolExecutor(1, "supervisor") as pool:
            ended_run = pool.submit(self.run)
            try:
                while not self._was_ready.wait(LOOK_INTERVAL_S) and not ended_run.done():
                    pass
                if not ended_run.done():
                    yield
            finally:
                self.request_stop()
                ended_run.result()

    def request_stop(self) -> None:
        """Makes `run` stop all and return; may be called from a signal handler or a thread."""
        self._stopping = True

    @contextmanager
    def _only_one(self) -> Iterator[None]:
        try:
            with exclusive(self._folder.lock, deadline_s=0):
                yield
        except TimeoutError as err:
            state = read_state(self._folder)
            pid = state.pid if state else "unknown"
            raise Conflict("ALREADY_RUNNING", folder=self._folder.root, pid=pid) from err

    def _watched(self, stage: Stage) -> _WatchedStage:
        processes = [
            _Watched(spec, self._folder, self._policy, self._report) for spec in stage.processes
        ]
        return _WatchedStage(processes, stage.then)

    def _start(self) -> bool:
        begun_s = time.monotonic()
        for stage in self._stages:
            for watched in stage.processes:
                watched.start()
            told_due_s = time.monotonic() + WAIT_TOLD_INTERVAL_S
            while awaited := [each for each in stage.processes if each.state != READY]:
                if self._stopping:
                    return False
                self._look()
                for watched in self._all():
                    if watched.failure is not None:
                        raise watched.failure
                if (now_s := time.monotonic()) >= told_due_s:
                    told_due_s = now_s + WAIT_TOLD_INTERVAL_S
                    self._tell(awaited, now_s - begun_s)
                self._check_time(awaited, now_s - begun_s)
                time.sleep(LOOK_INTERVAL_S)
            stage.then()
        for watched in self._all():
            watched.may_restart = True
        return True

    def _tell(self, awaited: Sequence[_Watched], waited_s: float) -> None:
        for watched in awaited:
            if watched.state != READY:
                waited = f"{waited_s:.0f} s of {self._start_s_max:.0f} s"
                self._report(f"{watched.spec.name}: not ready yet, {waited}: {watched.awaited()}")

    def _check_time(self, awaited: Sequence[_Watched], waited_s: float) -> None:
        """One that was ready and is no more is waited for no longer than the others."""
        late = next((each for each in awaited if each.state != READY), None)
        if late is not None and waited_s >= self._start_s_max:
            raise late.late(self._start_s_max)

    def _look(self) -> None:
        now_s = time.monotonic()
        for watched in self._all():
            watched.look(now_s)
        if now_s >= self._logs_due_s:
            self._logs_due_s = now_s + LOG_LOOK_INTERVAL_S
            for watched in self._all():
                bound_log(watched.log)
        self._write_state()

    def _stop(self) -> None:
        for stage in reversed(self._stages):
            for watched in stage.processes:
                watched.ask_to_stop()
            for watched in stage.processes:
                watched.finish()
            self._write_state()

    def _write_state(self) -> None:
        processes = tuple(watched.told() for watched in self._all())
        state = RunState(os.getpid(), self._created_s, processes)
        if state == self._written:
            return
        try:
            write_state(self._folder, state)
        except OSError as err:  # a full disk is no reason to let the processes go
            if not self._deaf:
                self._report(f"{self._folder.state} cannot be written: {err.strerror}")
            self._deaf = True
        else:
            self._written, self._deaf = state, False

    def _all(self) -> Iterator[_Watched]:
        for stage in self._stages:
            yield from stage.processes


class _Watched:
    """One process through its lives."""

    def __init__(
        self, spec: ProcessSpec, folder: DataFolder, policy: RestartPolicy, report: Report
    ) -> None:
        self.spec, self.log = spec, folder.logs / f"{spec.name}.log"
        self.state = STOPPED
        self.failure: HeadraceError | None = None
        # Not before all were ready: what ends in a start is told at once.
        self.may_restart = False
        self._run_dir, self._policy, self._report = folder.run, policy, report
        self._child: Child | None = None
        self._created_s: float | None = None
        self._restarts = self._restarts_in_row = 0
        self._last_end = ""
        self._started_s = self._ready_since_s = self._due_s = 0.0

    def start(self) -> None:
        """Starts it."""
        self._child = Child(self.spec, self.log, self._run_dir)
        self._created_s = psutil.Process(self._child.pid).create_time()
        self._started_s, self._due_s = time.monotonic(), 0.0
        self.state = STARTING

    def look(self, now_s: float) -> None:
        """Notices what happened since the last look, and does what is due."""
        if self._child is None:
            if self.state == WAITING and now_s >= self._due_s:
                self._restarts += 1
                self.start()
        elif (code := self._child.died()) is not None:
            self._died(self._child, ended(code), now_s, hopeless=code == EXIT_BAD_SETTING)
        elif now_s >= self._due_s:
            self._probe(self._child, now_s)

    def awaited(self) -> str:
        """What it says itself about why it is waited for."""
        said = self._child.trouble() if self._child is not None else ""
        return said or f"see {self.log}"

    def late(self, waited_s: float) -> HeadraceError:
        """The error of a start that it was waited for in vain."""
        cause = f"not ready in {waited_s:g} s"
        return Unavailable(
            "START_FAILED", process=self.spec.name, cause=cause, said=self.awaited(), log=self.log
        )

    def ask_to_stop(self) -> None:
        """Sends the stop signal, if it runs."""
        if self._child is not None:
            self._child.ask_to_stop()

    def finish(self) -> None:
        """Waits for its end, or makes it."""
        if self._child is not None:
            self._child.finish()
        self._child = None
        self.state = STOPPED

    def told(self) -> ProcessState:
        """What other processes may know."""
        return ProcessState(
            name=self.spec.name,
            state=self.state,
            pid=self._child.pid if self._child else None,
            started_at_s=self._created_s if self._child else None,
            restarts=self._restarts,
            ports=dict(self.spec.ports),
            log=str(self.log),
            last_end=self._last_end,
        )

    def _probe(self, child: Child, now_s: float) -> None:
        ready = child.ready()
        if ready and self.state != READY:
            again = " again" if self.state == UNREADY else ""
            self._report(f"{self.spec.name}: ready{again} after {now_s - self._started_s:.1f} s")
            self._ready_since_s = now_s
        if ready:
            self.state = READY
            if now_s - self._ready_since_s >= self._policy.healthy_after_s:
                self._restarts_in_row = 0
        elif self.state == READY:
            self.state = UNREADY
            self._started_s = now_s
        elif self.state == STARTING and now_s - self._started_s >= self.spec.ready_deadline_s:
            self._died(child, f"not ready in {self.spec.ready_deadline_s:g} s", now_s)
            return
        self._due_s = now_s + (0.0 if self.state == STARTING else PROBE_INTERVAL_S)

    def _died(self, child: Child, why: str, now_s: float, *, hopeless: bool = False) -> None:
        self.failure = child.start_failed()
        child.kill()
        self._child, self._last_end = None, why
        if hopeless or not self.may_restart or self._restarts_in_row >= self._policy.restarts_max:
            self.state = FAILED
            self._report(f"{self.spec.name}: {why}; given up, see {self.log}")
            return
        delay_s = self._policy.delay_s(self._restarts_in_row)
        self._restarts_in_row += 1
        self.state, self._due_s = WAITING, now_s + delay_s
        self._report(f"{self.spec.name}: {why}; starts again in {delay_s:g} s")


def _make(folder: DataFolder) -> None:
    """Raises Unavailable DATA_FOLDER_UNUSABLE when the folder cannot be made or written."""
    try:
        folder.run.mkdir(parents=True, exist_ok=True)
        folder.logs.mkdir(parents=True, exist_ok=True)
        folder.lock.touch()
    except OSError as err:
        raise Unavailable("DATA_FOLDER_UNUSABLE", folder=folder.root, problem=err.strerror) from err


@dataclass(frozen=True, slots=True)
class _WatchedStage:
    processes: Sequence[_Watched]
    then: Callable[[], object]


def run_until_signalled(supervisor: Supervisor) -> None:
    """Runs in the main thread until SIGINT, SIGTERM or SIGHUP."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(each, lambda *_: supervisor.request_stop()) for each in signals]
    try:
        supervisor.run()
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)


def bound_log(log: Path) -> None:
    """Moves a full log aside; its writer appends, so it goes on at the new beginning."""
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        shutil.copyfile(log, log.with_suffix(".log.1"))
        os.truncate(log, 0)

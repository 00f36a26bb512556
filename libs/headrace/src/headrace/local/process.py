# SPDX-License-Identifier: Apache-2.0
"""One child process, in a session of its own: started, asked if ready, stopped with all it began.

The child is the leader of its process group and is reaped only after the group was killed, so the
group id cannot have passed to a stranger. It dies with its parent (see `tether`).
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from headrace.errors import Unavailable
from headrace.local import tether
from headrace.local.settings import child_environment

Ready = Callable[[float], bool]
"""Asked with a time limit in seconds; True when the process may take traffic. Never raises."""

POLL_INTERVAL_S = 0.05
PROBE_TIMEOUT_S = 1.0
TAIL_BYTES_MAX = 2000
EXIT_BAD_SETTING = 78  # of sysexits.h; it ends the same way however often it is started
ERROR_BYTES_MAX = 65_536
# How services, Python, Java and PostgreSQL write that something went wrong.
ERROR = re.compile(
    r'"level": "(error|critical)"|\b(ERROR|FATAL|PANIC)\b|\b[A-Z]+(_[A-Z]+)+: |(Error|Exception)\b'
)
# What a service waits for is a warning: it comes right by itself.
TROUBLE = re.compile(rf'"level": "warning"|{ERROR.pattern}')
# As `headrace` tells an error: the lines behind it are indented, or say what is next.
TOLD = re.compile(r"^[A-Z]+(_[A-Z]+)+: ", re.MULTILINE)
RUN_MARK = "HEADRACE_RUN_DIR"


@dataclass(frozen=True, slots=True)
class HttpReady:
    """Ready when a GET of the URI answers 200."""

    uri: str

    def __call__(self, timeout_s: float) -> bool:
        """Asks once; without the environment's proxies, which do not know loopback."""
        parts = urlsplit(self.uri)
        connection = http.client.HTTPConnection(
            parts.hostname or "", parts.port or 80, timeout=timeout_s
        )
        try:
            connection.request("GET", parts.path or "/")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """How to run a process. `ports` are those it listens on, by the name of their setting."""

    name: str
    command: tuple[str, ...]
    ready: Ready
    environment: Mapping[str, str] = field(default_factory=child_environment)
    ports: Mapping[str, int] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace_s: float = 10.0
    ready_deadline_s: float = 60.0


class Child:
    """A running `ProcessSpec`; its output is appended to `log`, its descendants carry `run_dir`."""

    def __init__(self, spec: ProcessSpec, log: Path, run_dir: Path) -> None:
        self.spec, self.log = spec, log
        self._asked_s = time.monotonic()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._log_start = output.tell()
            self._process = subprocess.Popen(
                _tethered(spec.command),
                env={**spec.environment, RUN_MARK: str(run_dir)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The pid, which is also the id of the child's process group and session."""
        return self._process.pid

    def died(self) -> int | None:
        """None while it runs, else its exit code (negative: the signal that ended it)."""
        if self._process.returncode is None and self._ended():
            self._reap()
        return self._process.returncode

    def ready(self, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
        """Whether it runs and says that it is ready."""
        return self.died() is None and self.spec.ready(timeout_s)

    def wait_ready(self) -> None:
        """Raises Unavailable START_FAILED when it ends or is late before it is ready."""
        give_up = time.monotonic() + self.spec.ready_deadline_s
        while not self.ready():
            if self.died() is not None or time.monotonic() >= give_up:
                raise self.start_failed()
            time.sleep(POLL_INTERVAL_S)

    def trouble(self) -> str:
        """What last went wrong, or is waited for, since it was started; empty if nothing did."""
        return trouble_line(tail(self.log, self._log_start, ERROR_BYTES_MAX))

    def start_failed(self) -> Unavailable:
        """The error that says why it did not start."""
        code = self.died()
        return Unavailable(
            "START_FAILED",
            process=self.spec.name,
            cause=f"not ready in {self.spec.ready_deadline_s:g} s" if code is None else ended(code),
            said=error_line(tail(self.log, self._log_start, ERROR_BYTES_MAX)),
            log=self.log,
        )

    def ask_to_stop(self) -> None:
        """Sends the stop signal."""
        if self.died() is None:
            self._process.send_signal(self.spec.stop_signal)
        self._asked_s = time.monotonic()

    def finish(self) -> None:
        """Waits for the end that it was asked for, then kills what is left of its group."""
        give_up = self._asked_s + self.spec.stop_grace_s
        while self.died() is None and time.monotonic() < give_up:
            time.sleep(POLL_INTERVAL_S)
        self.kill()

    def stop(self) -> None:
        """Asks it to stop and sees to it that it does."""
        self.ask_to_stop()
        self.finish()

    def kill(self) -> None:
        """Ends it and its group at once."""
        if self._process.returncode is None:
            self._reap()

    def _ended(self) -> bool:
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, look) is not None

    def _reap(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def running(spec: ProcessSpec, run_dir: Path) -> Iterator[Child]:
    """A child that is ready, for the time of the context; its log stands in `run_dir`."""
    child = Child(spec, run_dir / f"{spec.name}.log", run_dir)
    try:
        child.wait_ready()
        yield child
    finally:
        child.stop()


def tail(log: Path, start: int, bytes_max: int = TAIL_BYTES_MAX) -> str:
    """The end of what was written to the log since `start`."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(min(start, size), size - bytes_max))
        return file.read().decode(errors="replace").strip()


def error_line(text: str) -> str:
    """What went wrong, of what a process wrote: the last line that names an error.

    Where there is none, the last one that is no step told as JSON.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if ERROR.search(line)]
    words = [line for line in lines if not line.startswith("{")]
    return next((found[-1].strip() for found in (errors, words, lines) if found), "nothing")


def trouble_line(text: str) -> str:
    """The last line that tells an error or a warning, in words; empty where there is none."""
    found = next((each for each in reversed(text.splitlines()) if TROUBLE.search(each)), "").strip()
    try:
        step = json.loads(found)
        return ": ".join(str(step[key]) for key in ("event", "error") if key in step)
    except (ValueError, TypeError):
        return found


def told_error(text: str) -> str:
    """Of what a command wrote the error that it ended with, whole; else all of it."""
    begins = [found.start() for found in TOLD.finditer(text)]
    return text[begins[-1] :].strip() if begins else text or "nothing"


def ended(code: int) -> str:
    """An exit code in words."""
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _tethered(command: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *command]

# SPDX-License-Identifier: Apache-2.0
"""One worker as its parent sees it, and a parent as its worker does.

A worker is the service's own program with a number, in a folder of its own, where its admin door
listens on a socket. It dies with its parent, also when that is killed: the kernel sees to it.
"""

from __future__ import annotations

import ctypes
import http.client
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

from headrace_kit.listening import socket_in

AS_WORKER = "--worker"
PR_SET_PDEATHSIG = 1  # prctl(2)
ASK_TIMEOUT_S = 2.0


def as_worker(argv: Sequence[str]) -> int | None:
    """The number that a parent gave this process, which dies with it from now on; else None."""
    if argv[:1] != [AS_WORKER]:
        return None
    number, parent_pid = map(int, argv[1:])
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        raise SystemExit("the parent ended before the kernel was told")
    return number


def worker_folder(data_dir: Path, number: int) -> Path:
    """What is the worker's own; whoever has the number next goes on with it."""
    return data_dir / "workers" / str(number)


def admin_socket(folder: Path) -> Path:
    """Raises Invalid BAD_SETTING for a folder with too long a path."""
    return socket_in(folder / "admin", "http.sock")


def ask_worker(admin: Path, path: str) -> bytes | None:
    """What the admin door on this socket answers to a path; None when it says nothing, or no."""
    answer = _get(admin, path)
    return None if answer is None or answer[0] != HTTPStatus.OK else answer[1]


class WorkerProcess:
    """A worker that was started just now, by the thread that lives until it has ended.

    For PR_SET_PDEATHSIG the parent is that thread.
    """

    def __init__(self, command: Sequence[str], number: int, folder: Path) -> None:
        self._admin = admin_socket(folder)
        self._process = subprocess.Popen(
            [*command, AS_WORKER, str(number), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            process_group=0,  # a Ctrl-C is told by the parent, once
        )

    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    def ready(self) -> bool | None:
        """What it says; None when it says nothing."""
        answer = _get(self._admin, "/health/ready")
        return None if answer is None else answer[0] == HTTPStatus.OK

    def metrics(self) -> str | None:
        """As in /metrics; None when it says nothing."""
        answer = _get(self._admin, "/metrics")
        return None if answer is None else answer[1].decode()

    def ask_to_stop(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def _get(admin: Path, path: str) -> tuple[int, bytes] | None:
    connection = _SocketConnection(admin)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a socket in a folder."""

    def __init__(self, path: Path) -> None:
        super().__init__("worker", timeout=ASK_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

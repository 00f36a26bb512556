# SPDX-License-Identifier: Apache-2.0
"""Becomes a command that dies with its parent: `python tether.py PARENT_PID COMMAND...`.

A supervisor killed by SIGKILL cannot stop its children, so the kernel does (Linux; elsewhere the
next start clears up). A script and not a preexec_fn, which is unsafe in a process with threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent_pid: int, command: list[str]) -> None:
    """Sets the death signal, makes sure that the parent still lives, and becomes the command."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent_pid:
            sys.exit("the parent is gone")
    try:
        os.execvp(command[0], command)  # noqa: S606, the caller's own command
    except OSError as err:
        sys.exit(f"{command[0]}: {err.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])

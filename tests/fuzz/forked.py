# SPDX-License-Identifier: Apache-2.0
"""A process for each file, which has imported everything already: thousands a minute run."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

DESCRIPTORS_MAX = 4_096


@dataclass(frozen=True)
class Ended:
    """`code` as waitstatus_to_exitcode has it, -SIGALRM when the clock was over."""

    code: int
    said: bytes
    cpu_s: float


def in_child(work: Callable[[], int], *, stdin: int, wall_s: int) -> Ended:
    """What became of work that has this file as its input, a pipe as its output, nothing else.

    Its code is what it returns; what it raises is 1, and the name of that is all that was said.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        _work_alone(work, stdin, write, wall_s)
    os.close(write)
    with os.fdopen(read, "rb") as out:
        said = out.read()
    _, status, used = os.wait4(child, 0)
    return Ended(os.waitstatus_to_exitcode(status), said, used.ru_utime + used.ru_stime)


def _work_alone(work: Callable[[], int], stdin: int, stdout: int, wall_s: int) -> NoReturn:
    code = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(wall_s)
        for source, place in ((stdin, 0), (stdout, 1), (os.open(os.devnull, os.O_WRONLY), 2)):
            os.dup2(source, place)
        os.closerange(3, DESCRIPTORS_MAX)
        # The parent's may be of another file, as in a test.
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        code = work()
    except BaseException as err:  # noqa: BLE001 (whatever it is, the process that asked is told)
        with suppress(OSError):
            os.write(1, type(err).__name__.encode())
    finally:
        os._exit(code)

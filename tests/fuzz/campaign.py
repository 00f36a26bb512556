# SPDX-License-Identifier: Apache-2.0
"""Mutated files for a target, one after the other, each judged; what breaks is kept as a file.

A target has a process of its own that says a line for each file, so that one that ends it, or
stands still, is known by the count of lines, and the next process goes on behind it. File number n
of a seed is the same at every time.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import IO

from tests.fuzz.mutators import Mutator, mutated

from headrace.errors import HeadraceError

# Of one file, whose two children have their own clocks.
JUDGED_S_MAX = 300
FINDINGS_MAX = 20
Judge = Callable[[bytes], str]


class Broken(Exception):
    """The file broke what must hold: the message says what."""


@dataclass(frozen=True)
class Target:
    """`opened` makes the judge, in the process that asks it: what becomes of a file in a word, or
    Broken. `share` of the time is its own.
    """

    name: str
    corpus: Callable[[], list[bytes]]
    mutators: tuple[Mutator, ...]
    opened: Callable[[], Judge]
    share: float

    def file(self, corpus: list[bytes], seed: int, number: int) -> bytes:
        return mutated(corpus, self.mutators, Random(f"{self.name} {seed} {number}"))


@dataclass
class Ran:
    """What became of the files of a target, and the first one of each problem."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: dict[str, bytes] = field(default_factory=dict)
    files: int = 0
    cpu_s: float = 0.0

    def found(self, problem: str, data: bytes) -> None:
        self.outcomes["broken"] += 1
        self.findings.setdefault(problem, data)


def fuzz(
    target: Target,
    seed: int,
    *,
    cpu_s: float = float("inf"),
    files: int | None = None,
    heard: Callable[[Ran], None] = lambda _: None,
) -> Ran:
    """Until the CPU time, or so many files, are over, or too much is found."""
    ran, corpus = Ran(), target.corpus()
    while (files is None or ran.files < files) and ran.cpu_s < cpu_s:
        numbers = itertools.count(ran.files) if files is None else range(ran.files, files)
        status = _in_process(
            ran,
            lambda out, numbers=numbers: _judge_all(target, seed, numbers, cpu_s - ran.cpu_s, out),
            lambda: target.file(corpus, seed, ran.files),
            heard,
        )
        if status == 0 or len(ran.findings) >= FINDINGS_MAX:
            break
        how = f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"
        ran.found(f"the process of all files {how}", target.file(corpus, seed, ran.files))
        ran.files += 1
    return ran


def _in_process(
    ran: Ran, work: Callable[[IO[str]], None], current: Callable[[], bytes], heard: Callable
) -> int:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        code = 1
        try:
            with os.fdopen(write, "w", buffering=1) as out:
                work(out)
            code = 0
        except BaseException:  # noqa: BLE001 (told, and known by the exit code)
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as lines:
        for line in lines:
            outcome, problem = json.loads(line)
            if problem:
                ran.found(problem, current())
            else:
                ran.outcomes[outcome] += 1
            ran.files += 1
            heard(ran)
            if len(ran.findings) >= FINDINGS_MAX:
                os.kill(child, signal.SIGKILL)
                break
    _, status, used = os.wait4(child, 0)
    ran.cpu_s += used.ru_utime + used.ru_stime
    return os.waitstatus_to_exitcode(status)


def _judge_all(
    target: Target, seed: int, numbers: Iterable[int], cpu_s: float, out: IO[str]
) -> None:
    judge, corpus = target.opened(), target.corpus()
    for number in numbers:
        if sum(os.times()[:4]) >= cpu_s:
            return
        signal.alarm(JUDGED_S_MAX)
        out.write(json.dumps(judged(judge, target.file(corpus, seed, number))) + "\n")


def judged(judge: Judge, data: bytes) -> tuple[str, str]:
    """The outcome, and the problem if that is one."""
    try:
        return judge(data), ""
    except Broken as err:
        return "", str(err)
    except HeadraceError as err:
        return err.reason, ""
    except Exception as err:  # noqa: BLE001 (nothing else may come out of what is judged)
        return "", f"{type(err).__name__} came out: {str(err)[:200]}"


def kept(folder: Path, target: Target, data: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{target.name}-{sha256(data).hexdigest()[:12]}"
    file.write_bytes(data)
    return file

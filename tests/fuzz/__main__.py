# SPDX-License-Identifier: Apache-2.0
"""`make fuzz`: python -m tests.fuzz [--minutes N] [--seed N] [--target NAME] [--file FILE]."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import time
from pathlib import Path

# Before numpy is there, as the child of an acceptance has it.
os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

from tests.fuzz.campaign import Ran, Target, fuzz, judged, kept
from tests.fuzz.targets import TARGETS

FOLDER = Path(".headrace/fuzz")
SAY_INTERVAL_S = 30.0


def main() -> int:
    asked = _arguments()
    names = [asked.target] if asked.target else list(TARGETS)
    if asked.file:
        return _again(TARGETS[names[0]], asked.file)
    seed = secrets.randbelow(1 << 32) if asked.seed is None else asked.seed
    say(f"seed {seed}")
    shares = sum(TARGETS[name].share for name in names)
    found = 0
    for name in names:
        target = TARGETS[name]
        cpu_s = 60 * asked.minutes * target.share / shares
        ran = fuzz(target, seed, cpu_s=cpu_s, files=asked.files, heard=Progress(name).hear)
        found += len(ran.findings)
        _report(target, ran)
    return int(found > 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--minutes", type=float, default=30.0, help="of CPU time, of all targets")
    parser.add_argument("--files", type=int, help="for each target, instead of the time")
    parser.add_argument("--seed", type=int, help="the same seed gives the same files")
    parser.add_argument("--target", choices=TARGETS)
    parser.add_argument("--file", type=Path, help="judge this one again")
    asked = parser.parse_args()
    if asked.file and not asked.target:
        parser.error("--file needs its --target")
    return asked


class Progress:
    """A line now and then."""

    def __init__(self, name: str) -> None:
        self._name, self._said_s = name, time.monotonic()

    def hear(self, ran: Ran) -> None:
        if time.monotonic() - self._said_s > SAY_INTERVAL_S:
            self._said_s = time.monotonic()
            found = ", ".join(f"{count:,} {what}" for what, count in ran.outcomes.most_common(9))
            say(f"{self._name}: {ran.files:,} files, {len(ran.findings)} findings: {found}")


def _report(target: Target, ran: Ran) -> None:
    say(f"{target.name}: {ran.files:,} files in {ran.cpu_s:.0f} s of CPU time")
    for outcome, count in ran.outcomes.most_common():
        say(f"  {count:>9,} {outcome}")
    for problem, data in ran.findings.items():
        file = kept(FOLDER, target, data)
        say(f"BROKEN {problem}\n  {sys.executable} -m tests.fuzz --target {target.name} "
            f"--file {file}")  # fmt: skip


def _again(target: Target, file: Path) -> int:
    outcome, problem = judged(target.opened(), file.read_bytes())
    say(f"BROKEN {problem}" if problem else outcome)
    return int(bool(problem))


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    # Threads of a target's service may wait for calls still.
    code = main()
    sys.stdout.flush()
    os._exit(code)

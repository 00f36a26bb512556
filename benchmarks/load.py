# SPDX-License-Identifier: Apache-2.0
"""The load generator: a small program in Go that sends encoded messages round and round.

It is built once by its sources' digest; a generator in Python would be as slow as what it measures.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import OTHER_CORE, ROOT, pinned
from headrace.local.gotools import BUILD_TIMEOUT_S, find_go
from headrace.local.settings import child_environment
from headrace.local.tools import ToolCache

SOURCES = Path(__file__).with_name("loadgen")
GO_MIN = (1, 24)


@dataclass(frozen=True, slots=True)
class Load:
    """What one run found."""

    calls_per_s: float
    failed: int
    p50_ms: float
    p99_ms: float
    max_ms: float

    def __str__(self) -> str:
        found = f"{self.calls_per_s:,.0f} calls/s, p50 {self.p50_ms:.2f} ms"
        return f"{found}, p99 {self.p99_ms:.2f} ms, max {self.max_ms:.0f} ms, failed {self.failed}"


@dataclass(frozen=True, slots=True)
class LoadGenerator:
    """Calls `method` at `address` with the messages of a file, from the other core."""

    program: Path

    @classmethod
    def built(cls) -> LoadGenerator:
        sources = sorted(SOURCES.iterdir())
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
        folder = ToolCache(ROOT / ".headrace/tools").provide(f"loadgen-{digest[:12]}", _build)
        return cls(folder / "loadgen")

    def run(
        self, address: str, method: str, messages: Path, *, concurrency: int, seconds: float = 5.0
    ) -> Load:
        return self._run(address, method, messages, seconds, "-concurrency", str(concurrency))

    def run_paced(
        self, address: str, method: str, messages: Path, *, rate: float, seconds: float
    ) -> Load:
        """Begins `rate` calls a second, whatever is in flight."""
        return self._run(address, method, messages, seconds, "-rate", str(rate))

    def _run(self, address: str, method: str, messages: Path, seconds: float, *pace: str) -> Load:
        command = [
            *pinned(OTHER_CORE),
            str(self.program),
            *("-address", address, "-method", method, "-messages", str(messages)),
            *("-seconds", str(seconds), *pace),
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
        latencies_ms = (found[name] for name in ("p50_ms", "p99_ms", "max_ms"))
        return Load(found["calls_per_s"], found["failed"], *latencies_ms)


def write_messages(path: Path, messages: Iterable[bytes]) -> Path:
    path.write_bytes(b"".join(struct.pack("<I", len(each)) + each for each in messages))
    return path


def _build(folder: Path) -> None:
    work = folder / "work"
    environment = {"GOCACHE": str(work), "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    subprocess.run(
        [find_go(GO_MIN), "build", "-trimpath", "-ldflags=-s -w", "-o", folder / "loadgen", "."],
        cwd=SOURCES,
        env=child_environment(environment),
        check=True,
        timeout=BUILD_TIMEOUT_S,
    )
    shutil.rmtree(work)

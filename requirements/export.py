# SPDX-License-Identifier: Apache-2.0
"""Writes requirements/*.lock: what each service and the workspace install, pinned by hash.

`uv.lock` records download addresses, so it stays out of git; these files do not.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("ingest", "feature", "trainer", "registry", "inference", "monitor")
# Not part of the workspace: each has an environment of its own, made by the tests that need it.
OWN_ENVIRONMENTS = ("spark-build", "spark")
COMPILE = ("pip", "compile", "--generate-hashes", "--no-header", "--no-annotate", "--quiet")
EXPORT = ("export", "--frozen", "--no-emit-workspace", "--no-header", "--no-annotate", "--quiet")
TIMEOUT_S = 600


def main() -> None:
    _uv("lock")
    for service in SERVICES:
        _write(service, "--package", f"headrace-{service}", "--no-dev")
    _write("dev", "--all-packages", "--all-extras", "--group", "dev")
    _write("bootstrap", "--only-group", "bootstrap")
    for name in OWN_ENVIRONMENTS:
        _compile(name)


def _write(name: str, *arguments: str) -> None:
    lock = _uv(*EXPORT, *arguments)
    # An index address would tie the lock to one mirror.
    lock = re.sub(r"^--(extra-)?index-url .*\n", "", lock, flags=re.MULTILINE)
    (ROOT / f"requirements/{name}.lock").write_text(lock, encoding="utf-8")


def _compile(name: str) -> None:
    given, lock = f"requirements/{name}.in", f"requirements/{name}.lock"
    _uv(*COMPILE, "--upgrade", "--no-emit-index-url", given, "--output-file", lock)


def _uv(*arguments: str) -> str:
    command = [sys.executable, "-m", "uv", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    return done.stdout


if __name__ == "__main__":
    main()

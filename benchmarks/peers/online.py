# SPDX-License-Identifier: Apache-2.0
"""Feast's gRPC server on the service's core, read by the same load generator."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.load import LoadGenerator
from benchmarks.machine import SERVICE_CORE, Machine, pinned
from benchmarks.outcome import say
from benchmarks.peers.installed import FEAST
from headrace.local.ports import pick_ports

METHOD = "/GrpcFeatureServer/GetOnlineFeatures"


@contextmanager
def feast(where: Machine) -> Iterator[str | None]:
    """The address of a running Feast; None when it is not installed."""
    if not FEAST.folder.exists():
        yield None
        return
    (port,) = pick_ports(1)
    script = str(Path(__file__).with_name("feast_online.py"))
    arguments = (str(port), str(where.folder / "feast"))
    command = (*pinned(SERVICE_CORE), str(FEAST.python), script, *arguments)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            if process.stdout is None or process.stdout.readline() != "ready\n":
                raise SystemExit("Feast did not start")
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def feast_reads(
    where: Machine, generator: LoadGenerator, address: str, *, entities: int, concurrency: int
) -> float:
    """Reads per second; every answer has to be one."""
    path = where.folder / "feast" / f"reads-{entities}"
    load = generator.run(address, METHOD, path, concurrency=concurrency, seconds=4.0)
    say(f"feast, {entities} entities, {concurrency} in flight: {load}")
    if load.failed:
        raise SystemExit("Feast failed reads")
    return load.calls_per_s

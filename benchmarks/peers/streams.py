# SPDX-License-Identifier: Apache-2.0
"""The stream benchmark's job on each stream processor that is installed, on the service's core.

They answer less than we do: the windows are tumbling, and nothing is asked of the past.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.machine import SERVICE_CORE, Machine, ServiceUnderTest, pinned, rate
from benchmarks.outcome import say
from benchmarks.peers.installed import BYTEWAX, KAFKA_STREAMS, QUIX_STREAMS
from headrace import topics
from headrace.admin import create_topics
from headrace.local.java import find_java
from headrace.local.process import Child, ProcessSpec

OUTPUT = topics.INGEST_RECORDS.of("peer-rows")
BYTEWAX_TIMEOUT_S = 300
# The slowest is measured on the first part of the events.
QUIX_SHARE = 5


def stream_peers(where: Machine, topic: str, events: int) -> dict[str, float]:
    """Events per second by peer."""
    create_topics(where.bootstrap, [(OUTPUT, topics.INGEST_RECORDS)])
    found = {}
    if KAFKA_STREAMS.folder.exists():
        found["kafka-streams"] = _kafka_streams(where, topic, events)
    if BYTEWAX.folder.exists():
        found["bytewax"] = _bytewax(where, topic, events)
    if QUIX_STREAMS.folder.exists():
        found["quix-streams"] = _quix_streams(where, topic, events)
    return found


def _kafka_streams(where: Machine, topic: str, events: int) -> float:
    java = str(find_java().path)
    flags = ("-Xmx512m", "-XX:ActiveProcessorCount=1", "-cp", KAFKA_STREAMS.classpath)
    state = str(where.folder / "kafka-streams")
    command = (java, *flags, "StreamPeer", where.bootstrap, topic, OUTPUT, state)
    with _started(where, "kafka-streams", command) as peer:
        return rate(where, peer, "kafka-streams", topic, events)


def _quix_streams(where: Machine, topic: str, events: int) -> float:
    state = str(where.folder / "quix-streams")
    script = str(Path(__file__).with_name("quix_stream.py"))
    command = (str(QUIX_STREAMS.python), script, where.bootstrap, topic, OUTPUT, state)
    with _started(where, "quix-streams", command) as peer:
        return rate(where, peer, "quix-streams", topic, events // QUIX_SHARE)


def _bytewax(where: Machine, topic: str, events: int) -> float:
    """It commits nothing to Kafka: it tells its rate itself."""
    script = str(Path(__file__).with_name("bytewax_stream.py"))
    arguments = (where.bootstrap, topic, str(events), str(where.folder / "bytewax"), OUTPUT)
    command = (*pinned(SERVICE_CORE), str(BYTEWAX.python), script, *arguments)
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=BYTEWAX_TIMEOUT_S
    )
    found = float(done.stdout.splitlines()[-1])
    say(f"bytewax: {found:,.0f} events/s")
    return found


@contextmanager
def _started(where: Machine, name: str, command: tuple[str, ...]) -> Iterator[ServiceUnderTest]:
    say(f"{name}:")
    spec = ProcessSpec(name, (*pinned(SERVICE_CORE), *command), ready=lambda timeout_s: True)
    child = Child(spec, where.folder / f"{name}.log", where.folder)
    try:
        yield ServiceUnderTest(child, "")
    finally:
        child.stop()

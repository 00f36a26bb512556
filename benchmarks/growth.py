# SPDX-License-Identifier: Apache-2.0
"""How folding grows: with the number of entities, and with the number of workers.

Events per second of processor time with 10,000 and with 1,000,000 entities, then the throughput of
one worker on one core beside that of two on two. The broker takes its share of one of them, so
the two workers are not tied to a core each: one would have to do with what it leaves. Each clock
runs while all workers have something to fold: the group moves partitions to the second one when the
first is at work already, so that one of them ends earlier. The raw limit is what two consumers that
do nothing read on both cores beside one on one.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.clicks import HOUR_US, clicks
from benchmarks.machine import (
    OTHER_CORE,
    SERVICE_CORE,
    Machine,
    ServiceUnderTest,
    machine,
    publish,
    raw_limit,
)
from benchmarks.outcome import Outcome, say
from benchmarks.stream import STREAM_DEFINITION, VIEW_DEFINITION
from headrace import topics
from headrace.admin import create_topics
from headrace_kit.offsets import committed_offsets, topic_end_offsets

EVENTS, FEW, MANY = 3_000_000, 10_000, 1_000_000
PER_CORE_MIN, TOGETHER_MIN = 0.8, 1.6
BOTH_CORES = (SERVICE_CORE, OTHER_CORE)
LOOK_S = 0.1
FOLDED = "headrace_feature_consumed_records_total"
BEGUN_EVENTS = 100_000


@dataclass(frozen=True, slots=True)
class Pace:
    """Events per second, and per second of processor time."""

    events_s: float
    events_per_cpu_s: float


@dataclass(frozen=True, slots=True)
class Look:
    """How far the workers are."""

    at_s: float
    cpu_s: float
    folded: tuple[float, ...]

    @classmethod
    def at(cls, running: list[ServiceUnderTest]) -> Look:
        folded = tuple(service.metric(FOLDED) for service in running)
        return cls(time.monotonic(), sum(service.cpu_s() for service in running), folded)


def main() -> None:
    with machine() as where:
        few, many = (fold(where, fill(where, users, 1), 1) for users in (FEW, MANY))
        stream = fill(where, MANY, 2)
        topic = topics.INGEST_RECORDS.of(stream)
        raw = raw_limit(where, topic, EVENTS, BOTH_CORES) / raw_limit(where, topic, EVENTS)
        together = fold(where, stream, 2)
    per_core = many.events_per_cpu_s / few.events_per_cpu_s
    share = together.events_s / many.events_s
    say(f"with {MANY:,} entities {per_core:.2f} of the events of {FEW:,} per second of a core")
    say(f"two workers fold {share:.2f} times as much as one, bare consumers read {raw:.2f} times")
    ok = per_core >= PER_CORE_MIN and share >= TOGETHER_MIN
    bar = (
        f">= {PER_CORE_MIN} of the events per core (is {per_core:.2f}) and >= {TOGETHER_MIN} times"
    )
    say(Outcome("growth", share, "times", raw, bar, ok).line())


def fill(where: Machine, users: int, workers: int) -> str:
    """A stream for one fold: the next one would find how far the group came."""
    stream = f"clicks-{users}-{workers}"
    topic = topics.INGEST_RECORDS.of(stream)
    create_topics(where.bootstrap, [(topic, topics.INGEST_RECORDS)])
    publish(where, topic, clicks(users, EVENTS // users, step_us=HOUR_US))
    say(f"{EVENTS:,} events of {users:,} users are in {topic}")
    return stream


def fold(where: Machine, stream: str, workers: int) -> Pace:
    """A view is applied to workers that are there."""
    view = f"user-{stream}"
    group_stream = {**STREAM_DEFINITION, "name": stream}
    with ExitStack() as stack:
        running = [
            stack.enter_context(
                where.service(
                    "feature",
                    cores=BOTH_CORES[:workers],
                    worker=view + str(number),
                    keep_days="3650",
                )
            )
            for number in range(workers)
        ]
        where.define(group_stream, {**VIEW_DEFINITION, "name": view, "stream": stream})
        pace = measured(where, running, topics.INGEST_RECORDS.of(stream))
        where.take_back(f"view/{view}", f"stream/{stream}")
    return pace


def measured(where: Machine, running: list[ServiceUnderTest], topic: str) -> Pace:
    """While each worker folds: from its first events to the end of the first partition."""
    ends = topic_end_offsets(where.bootstrap, [topic])
    begun: Look | None = None
    while True:
        now = Look.at(running)
        if begun is None and min(now.folded) >= BEGUN_EVENTS:
            begun = now
        done = committed_offsets(where.bootstrap, "feature", [topic])
        if any(done.get(partition, 0) >= end for partition, end in ends.items()):
            break
        for service in running:
            if service.child.died() is not None:
                raise service.child.start_failed()
        time.sleep(LOOK_S)
    if begun is None:
        raise SystemExit("a worker had nothing to do: run this on a machine that does nothing else")
    events = sum(now.folded) - sum(begun.folded)
    pace = Pace(events / (now.at_s - begun.at_s), events / (now.cpu_s - begun.cpu_s))
    said = " and ".join(f"{service.rss_mb():,.0f}" for service in running)
    say(f"{topic}, {len(running)} workers: {pace.events_s:,.0f} events/s over {events:,.0f}, ")
    say(f"  {1e6 / pace.events_per_cpu_s:.2f} us of CPU an event, RSS {said} MB")
    return pace

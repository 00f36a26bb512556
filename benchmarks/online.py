# SPDX-License-Identifier: Apache-2.0
"""Online reads on one core: 10 features of 1 and of 100 entities, closed loop, over gRPC.

10,000 entities with 24 to 100 observations of the last day each; count, sum, mean, max and last
over one hour and over 24. The raw limit is the same door answering a constant. Both bars are
measured with nothing else to do, and once more while 5,000 events a second come in.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import orjson
from confluent_kafka import Producer

from benchmarks.doors import constant_door
from benchmarks.load import Load, LoadGenerator, write_messages
from benchmarks.machine import Machine, ServiceUnderTest, machine, publish
from benchmarks.outcome import Outcome, say
from benchmarks.peers.online import feast, feast_reads
from benchmarks.stream import STREAM_DEFINITION, TOPIC, plain, view_definition
from headrace import topics
from headrace.admin import create_topics
from headrace.feature.v1 import feature_service_pb2 as pb
from headrace.feature.v1 import feature_service_pb2_grpc as service
from headrace_kit.offsets import committed_offsets

ENTITIES, OBSERVATIONS_MIN, OBSERVATIONS_MAX = 10_000, 24, 100
DAY_US, HOUR_US = 86_400_000_000, 3_600_000_000
VIEW = view_definition("1h", "1d")
FEATURES = [f"user:{name}" for name in VIEW["features"]]
METHOD = "/headrace.feature.v1.FeatureService/GetOnlineFeatures"
BACKGROUND_EVENTS_PER_S = 5_000
# Entities in a request, calls in flight, reads/s at least, p99 ms at most.
BARS = ((1, 16, 15_000, 2.5), (100, 8, 1_500, 15.0))


def main() -> None:
    generator, now_us = LoadGenerator.built(), time.time_ns() // 1000
    with machine() as where:
        create_topics(where.bootstrap, [(TOPIC, topics.INGEST_RECORDS)])
        events = fill(where, now_us)
        where.define(STREAM_DEFINITION, VIEW)
        with where.service("feature", keep_days="3650") as feature:
            wait_for(where, feature, len(events))
            wrong = mistakes(feature, events, now_us)
            say(f"answers that differ from a plain fold: {wrong}")
            outcomes = [
                measure(where, generator, feature, bar, right=not wrong, name=f"online_{bar[0]}")
                for bar in BARS
            ]
            with background(where):
                for bar in BARS:
                    say(f"while {BACKGROUND_EVENTS_PER_S:,} events/s come in:")
                    reads(where, generator, feature, entities=bar[0], concurrency=bar[1])
        peers = peer_reads(where, generator)
    for outcome, peer in zip(outcomes, peers, strict=True):
        say(replace(outcome, peers=peer).line())


def peer_reads(where: Machine, generator: LoadGenerator) -> list[dict[str, float]]:
    """By peer, for each bar; after our own service has ended."""
    with feast(where) as address:
        if address is None:
            return [{} for _ in BARS]
        return [
            {"feast": feast_reads(where, generator, address, entities=some, concurrency=many)}
            for some, many, *_ in BARS
        ]


def fill(where: Machine, now_us: int) -> list[tuple[str, int, float]]:
    """Publish (user, when, amount) as ingest would, in order of time."""
    chance = np.random.default_rng(11)
    counts = chance.integers(OBSERVATIONS_MIN, OBSERVATIONS_MAX + 1, ENTITIES)
    users = np.arange(ENTITIES).repeat(counts)
    moments = now_us - chance.integers(0, DAY_US - HOUR_US // 2, len(users))
    amounts = chance.random(len(users)).round(4) * 100
    order = np.argsort(moments, kind="stable")
    events = [
        (f"user-{user}", at, amount)
        for user, at, amount in zip(
            users[order].tolist(), moments[order].tolist(), amounts[order].tolist(), strict=True
        )
    ]
    publish(where, TOPIC, (record(number, *event) for number, event in enumerate(events)))
    say(f"{len(events):,} events of {ENTITIES:,} users are in {TOPIC}")
    return events


def record(number: int, user: str, at: int, amount: float) -> tuple[bytes, bytes]:
    name = f"c-{number}"
    envelope = {"_id": name, "_event_us": at, "_known_us": at, "_published_ms": at // 1000}
    columns = {"click_id": name, "user": user, "kind": "click", "amount": amount, "at": at}
    return user.encode(), orjson.dumps({**envelope, "_late": False, **columns})


def wait_for(where: Machine, service_: ServiceUnderTest, events: int) -> None:
    while sum(committed_offsets(where.bootstrap, "feature", [TOPIC]).values()) < events:
        if service_.child.died() is not None:
            raise service_.child.start_failed()
        time.sleep(0.1)


def mistakes(feature: ServiceUnderTest, events: list[tuple[str, int, float]], now_us: int) -> int:
    """Values that differ from a plain fold, of every tenth user."""
    happened: dict[str, list[tuple[int, str, float]]] = {}
    for number, (user, at, amount) in enumerate(events):
        happened.setdefault(user, []).append((at, f"c-{number}", amount))
    users = sorted(happened)[::10]
    request = a_request(users)
    request.as_of_us.extend([now_us] * len(users))
    stub = service.FeatureServiceStub(grpc.insecure_channel(feature.address))
    answer = stub.GetOnlineFeatures(request, timeout=30)
    got = np.frombuffer(answer.values, "<f4").reshape(len(users), len(FEATURES))
    expected = [
        [expected_of(name, happened[user], now_us) for name in VIEW["features"]] for user in users
    ]
    return int((~np.isclose(got, np.array(expected, np.float32), 0, 0, equal_nan=True)).sum())


def expected_of(feature: str, events: list[tuple[int, str, float]], now_us: int) -> float:
    span_us = HOUR_US if feature.endswith("1h") else DAY_US
    seen = [event for event in events if event[0] > now_us - span_us]
    if not seen:
        return 0.0 if feature.startswith("count") else np.nan
    return plain(f"{feature.partition('_')[0]}_1d", seen, now_us)


def a_request(users: list[str]) -> pb.GetOnlineFeaturesRequest:
    request = pb.GetOnlineFeaturesRequest(features=FEATURES)
    request.columns.add(name="user").strings.values.extend(users)
    return request


def messages(where: Machine, entities: int) -> Path:
    chance = np.random.default_rng(entities)
    return write_messages(
        where.folder / f"reads-{entities}",
        (
            a_request([f"user-{user}" for user in row]).SerializeToString()
            for row in chance.integers(0, ENTITIES, (5_000, entities)).tolist()
        ),
    )


def reads(
    where: Machine,
    generator: LoadGenerator,
    feature: ServiceUnderTest,
    *,
    entities: int,
    concurrency: int,
) -> Load:
    """Median of three by rate."""
    path = messages(where, entities)
    found = []
    for _ in range(3):
        before_s = feature.cpu_s()
        load = generator.run(feature.address, METHOD, path, concurrency=concurrency, seconds=4.0)
        cpu_us = (feature.cpu_s() - before_s) / (load.calls_per_s * 5.0) * 1e6  # 1 s of warm-up
        say(f"{entities} entities, {concurrency} in flight: {load}, {cpu_us:.0f} us of CPU a read")
        found.append(load)
    return sorted(found, key=lambda load: load.calls_per_s)[1]


def measure(
    where: Machine,
    generator: LoadGenerator,
    feature: ServiceUnderTest,
    bar: tuple[int, int, int, float],
    *,
    right: bool,
    name: str,
) -> Outcome:
    entities, concurrency, reads_per_s, p99_ms = bar
    load = reads(where, generator, feature, entities=entities, concurrency=concurrency)
    with constant_door(METHOD, answer_bytes=4 * len(FEATURES) * entities) as address:
        path = messages(where, entities)
        raw = generator.run(address, METHOD, path, concurrency=concurrency, seconds=4.0)
    say(f"the same door, a constant: {raw}")
    ok = load.calls_per_s >= reads_per_s and load.p99_ms <= p99_ms and right and not load.failed
    said = f">= {reads_per_s:,} reads/s, p99 <= {p99_ms} ms (found {load.p99_ms:.2f}), all right"
    return Outcome(name, load.calls_per_s, "reads/s", raw.calls_per_s, said, ok)


@contextmanager
def background(where: Machine) -> Iterator[None]:
    """Events of now, evenly in time, until the block ends."""
    ended = threading.Event()
    thread = threading.Thread(target=_trickle, args=(where, ended))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _trickle(where: Machine, ended: threading.Event) -> None:
    producer = Producer(
        {
            "bootstrap.servers": where.bootstrap,
            "linger.ms": 5,
            "partitioner": "murmur2_random",
        }
    )
    chance, number, interval_s = np.random.default_rng(5), 1_000_000, 0.02
    while not ended.wait(interval_s):
        users = chance.integers(0, ENTITIES, int(BACKGROUND_EVENTS_PER_S * interval_s)).tolist()
        for user in users:
            number += 1
            key, value = record(number, f"user-{user}", time.time_ns() // 1000, 12.5)
            producer.produce(TOPIC, key=key, value=value)
        producer.poll(0)
    producer.flush(10.0)

# SPDX-License-Identifier: Apache-2.0
"""The feature engine on one core: 1,000,000 JSON events of 10,000 entities, state on disk.

Count, sum, mean, max and last over one minute and over all. The clock runs from a tenth of the
events stored to all of them stored; the raw limit consumes the same topic on the same core and
does nothing. Every answer is compared with a plain fold.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections import defaultdict

import grpc
import numpy as np
import orjson
from confluent_kafka import Producer

from benchmarks.machine import SERVICE_CORE, Machine, ServiceUnderTest, machine, pinned
from benchmarks.outcome import Outcome, say
from headrace import topics
from headrace.admin import create_topics
from headrace.feature.v1 import feature_service_pb2 as pb
from headrace.feature.v1 import feature_service_pb2_grpc as service
from headrace_kit.offsets import committed_offsets

EVENTS, ENTITIES, KINDS = 1_000_000, 10_000, 8
START_US, STEP_US = 1_700_000_000_000_000, 1_000
STREAM = "clicks"
TOPIC = topics.INGEST_RECORDS.of(STREAM)
BAR = 200_000
STREAM_DEFINITION = {
    "kind": "stream",
    "name": STREAM,
    "description": "Clicks.",
    "owner": "benchmark",
    "key": "user",
    "id": "click_id",
    "event_time": "at",
    "lateness_allowed": "1h",
    "columns": {
        "click_id": {"type": "string"},
        "user": {"type": "string"},
        "kind": {"type": "string"},
        "amount": {"type": "float64"},
        "at": {"type": "timestamp"},
    },
}
WINDOWS = ("1m", "1d")
AGGREGATES = ("sum", "mean", "max", "last")
VIEW_DEFINITION = {
    "kind": "view",
    "name": "user",
    "description": "What a user clicked.",
    "stream": STREAM,
    "entity": ["user"],
    "features": {
        **{f"count_{window}": {"aggregate": "count", "window": window} for window in WINDOWS},
        **{
            f"{aggregate}_{window}": {
                "aggregate": aggregate,
                "column": "amount",
                "window": window,
            }
            for window in WINDOWS
            for aggregate in AGGREGATES
        },
    },
}
RAW = """
import sys, time
from confluent_kafka import Consumer, TopicPartition
bootstrap, topic, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
settings = {"bootstrap.servers": bootstrap, "group.id": "raw", "enable.auto.commit": False}
consumer = Consumer(settings)
consumer.assign([TopicPartition(topic, number, 0) for number in range(4)])
read, begun = 0, 0.0
while read < count:
    read += len(consumer.consume(10_000, 1.0))
    begun = begun or time.monotonic()
print(count / (time.monotonic() - begun))
"""


def main() -> None:
    with machine() as where:
        amounts = fill(where)
        raw = raw_limit(where)
        say(f"raw consume: {raw:,.0f} events/s")
        where.define(STREAM_DEFINITION, VIEW_DEFINITION)
        with where.service("feature", keep_days="3650") as feature:
            rate = followed(where, feature)
            wrong = mistakes(feature, amounts)
    say(f"answers that differ from a plain fold: {wrong}")
    ok = rate >= BAR and not wrong
    bar = f">= {BAR:,} events/s and every answer right"
    say(Outcome("stream", rate, "events/s", raw, bar, ok).line())


def fill(where: Machine) -> dict[str, list[tuple[int, str, float]]]:
    """Publish the events as ingest would; by user, what happened."""
    create_topics(where.bootstrap, [(TOPIC, topics.INGEST_RECORDS)])
    producer = Producer(
        {
            "bootstrap.servers": where.bootstrap,
            "linger.ms": 20,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 200_000,
        }
    )
    chance, happened = np.random.default_rng(7), defaultdict(list)
    # Half of the events are those of a few users.
    users = np.where(
        np.arange(EVENTS) % 2,
        chance.integers(0, ENTITIES, EVENTS),
        np.minimum(chance.pareto(0.4, EVENTS), ENTITIES - 1),
    ).astype(int)
    amounts = chance.random(EVENTS).round(4) * 100
    batch = []
    for number, (user_number, amount) in enumerate(
        zip(users.tolist(), amounts.tolist(), strict=True)
    ):
        user, name = f"user-{user_number}", f"c-{number}"
        at = START_US + number * STEP_US
        happened[user].append((at, name, amount))
        envelope = {"_id": name, "_event_us": at, "_known_us": at, "_published_ms": at // 1000}
        columns = {"click_id": name, "user": user, "amount": amount, "at": at}
        value = {**envelope, "_late": False, "kind": f"kind-{number % KINDS}", **columns}
        batch.append({"value": orjson.dumps(value), "key": user.encode()})
        if len(batch) == 50_000:
            producer.produce_batch(TOPIC, batch)
            producer.flush()
            batch.clear()
    say(f"{EVENTS:,} events of {len(happened):,} users are in {TOPIC}")
    return happened


def raw_limit(where: Machine) -> float:
    command = [
        *pinned(SERVICE_CORE),
        sys.executable,
        "-c",
        RAW,
        where.bootstrap,
        TOPIC,
        str(EVENTS),
    ]
    rates = [
        float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(3)
    ]
    return sorted(rates)[1]


def followed(where: Machine, feature: ServiceUnderTest) -> float:
    """Events per second from a tenth to all, as the committed offsets tell it."""
    begun_s = first = 0.0
    while True:
        done = sum(committed_offsets(where.bootstrap, "feature", [TOPIC]).values())
        now_s = time.monotonic()
        if not begun_s and done >= EVENTS // 10:
            begun_s, first, cpu_s = now_s, done, feature.cpu_s()
        if done >= EVENTS:
            break
        time.sleep(0.02)
    rate = (EVENTS - first) / (now_s - begun_s)
    cpu_us = (feature.cpu_s() - cpu_s) / (EVENTS - first) * 1e6
    say(f"{rate:,.0f} events/s, {cpu_us:.2f} us of CPU an event, RSS {feature.rss_mb():,.0f} MB")
    return rate


def mistakes(feature: ServiceUnderTest, happened: dict[str, list[tuple[int, str, float]]]) -> int:
    features = [f"user:{name}" for name in VIEW_DEFINITION["features"]]
    stub = service.FeatureServiceStub(grpc.insecure_channel(feature.address))
    users, wrong = sorted(happened), 0
    for first in range(0, len(users), 1_000):
        some = users[first : first + 1_000]
        request = pb.GetOnlineFeaturesRequest(features=features)
        request.columns.add(name="user").strings.values.extend(some)
        moments = [happened[user][-1][0] + 1_000_000 for user in some]
        request.as_of_us.extend(moments)
        answer = stub.GetOnlineFeatures(request, timeout=30)
        got = np.frombuffer(answer.values, "<f4").reshape(len(some), len(features))
        expected = [
            [plain(name.partition(":")[2], happened[user], moment) for name in features]
            for user, moment in zip(some, moments, strict=True)
        ]
        wrong += int((got != np.array(expected, dtype=np.float32)).sum())
    return wrong


def plain(feature: str, events: list[tuple[int, str, float]], moment: int) -> float:
    aggregate, window = feature.split("_")
    span = 60_000_000 if window == "1m" else 86_400_000_000
    seen = [amount for at, _, amount in events if moment - span < at <= moment]
    total = math.fsum(seen)
    return {
        "count": len(seen),
        "sum": total,
        "mean": total / len(seen),
        "max": max(seen),
        "last": seen[-1],
    }[aggregate]

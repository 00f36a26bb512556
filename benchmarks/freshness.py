# SPDX-License-Identifier: Apache-2.0
"""From an event that is published to the online value that holds it, with 5,000 events/s beside it.

Ingest and feature share a core; the broker, the load and the probes have the other. Probes come at
random moments whatever became of those before (an open loop), each of an entity of its own; the
clock runs from before the event is handed to the producer to the answer that counts it. The raw
limit is a plain consumer that waits for the same kind of event.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import orjson
from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.ingest import DEFINITION, STREAM, TOPIC
from benchmarks.machine import Machine, ServiceUnderTest, machine
from benchmarks.outcome import Outcome, say
from headrace import topics
from headrace.admin import create_topics
from headrace.feature.v1 import feature_service_pb2 as pb
from headrace.feature.v1 import feature_service_pb2_grpc as service

EVENTS_PER_S, TICK_S = 5_000, 0.01
ENTITIES = 10_000
WARM_S, MEASURED_S, PATIENCE_S = 8.0, 40.0, 10.0
PROBES_PER_S = 10
P50_MS_MAX, P99_MS_MAX = 30.0, 150.0
VIEW = {
    "kind": "view",
    "name": "customer",
    "description": "What a customer ordered.",
    "stream": STREAM,
    "entity": ["customer"],
    "features": {
        "orders": {"aggregate": "count", "window": "1h"},
        "spent": {"aggregate": "sum", "column": "amount", "window": "1h"},
    },
}
AT_ONCE = {"socket.nagle.disable": True}
FEATURES = ["customer:orders", "customer:spent"]


def main() -> None:
    with machine() as where:
        create_topics(
            where.bootstrap,
            [(TOPIC, topics.RAW), (topics.INGEST_RECORDS.of(STREAM), topics.INGEST_RECORDS)],
        )
        raw = raw_limit_ms(where)
        where.define(DEFINITION, VIEW)
        with where.service("ingest") as ingest, where.service("feature") as feature:
            delays_ms, unseen = measured(where, ingest, feature)
    p50, p99 = np.quantile(delays_ms, [0.5, 0.99]).tolist()
    say(f"{len(delays_ms)} probes: p50 {p50:.1f} ms, p99 {p99:.1f} ms, {unseen} never seen")
    ok = p50 <= P50_MS_MAX and p99 <= P99_MS_MAX and not unseen
    bar = f"p50 <= {P50_MS_MAX:.0f} ms (value), p99 <= {P99_MS_MAX:.0f} ms, every probe seen"
    say(Outcome("freshness", p50, "ms", raw, bar, ok).line())


def measured(
    where: Machine, ingest: ServiceUnderTest, feature: ServiceUnderTest
) -> tuple[list[float], int]:
    """How long each probe took, and how many were not seen in time."""
    with background(where.bootstrap):
        time.sleep(WARM_S)
        begun_s, before_s = time.monotonic(), (ingest.cpu_s(), feature.cpu_s())
        watch = Watch(where.bootstrap, feature.address)
        watch.run()
        took_s, after_s = time.monotonic() - begun_s, (ingest.cpu_s(), feature.cpu_s())
    shares = [(b - a) / took_s * 100 for a, b in zip(before_s, after_s, strict=True)]
    say(f"of the core: ingest {shares[0]:.0f} %, feature {shares[1]:.0f} %")
    return watch.delays_ms, len(watch.waiting)


class Watch:
    """Publishes probes and asks for all that were not seen yet, again and again."""

    def __init__(self, bootstrap: str, address: str) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "linger.ms": 0,
                "partitioner": "murmur2_random",
                **AT_ONCE,
            }
        )
        self._stub = service.FeatureServiceStub(grpc.insecure_channel(address))
        self.waiting: dict[str, float] = {}
        self.delays_ms: list[float] = []

    def run(self) -> None:
        chance = random.Random(7)  # noqa: S311 - moments, no secrets
        end_s = time.monotonic() + MEASURED_S
        due_s, number = time.monotonic(), 0
        while time.monotonic() < end_s or self._patient(end_s):
            if due_s <= time.monotonic() < end_s:
                number, due_s = number + 1, due_s + chance.expovariate(PROBES_PER_S)
                self._publish(f"probe-{number}")
            self._ask()
            time.sleep(0.001)

    def _patient(self, end_s: float) -> bool:
        return bool(self.waiting) and time.monotonic() < end_s + PATIENCE_S

    def _publish(self, entity: str) -> None:
        self.waiting[entity] = time.monotonic()
        self._producer.produce(TOPIC, an_order(entity, entity), entity.encode())
        self._producer.poll(0)

    def _ask(self) -> None:
        if not self.waiting:
            return
        entities = list(self.waiting)
        request = pb.GetOnlineFeaturesRequest(features=FEATURES)
        request.columns.add(name="customer").strings.values.extend(entities)
        answer = self._stub.GetOnlineFeatures(request, timeout=PATIENCE_S)
        now_s = time.monotonic()
        counts = np.frombuffer(answer.values, "<f4").reshape(len(entities), len(FEATURES))[:, 0]
        for entity, count in zip(entities, counts.tolist(), strict=True):
            if count > 0:
                self.delays_ms.append((now_s - self.waiting.pop(entity)) * 1_000)


@contextmanager
def background(bootstrap: str) -> Iterator[None]:
    """EVENTS_PER_S of ENTITIES, evenly."""
    over = threading.Event()
    thread = threading.Thread(target=_publish_evenly, args=(bootstrap, over))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _publish_evenly(bootstrap: str, over: threading.Event) -> None:
    producer = Producer(
        {"bootstrap.servers": bootstrap, "linger.ms": 5, "partitioner": "murmur2_random"}
    )
    number, begun_s = 0, time.monotonic()
    while not over.wait(TICK_S):
        due = int((time.monotonic() - begun_s) * EVENTS_PER_S)
        while number < due:
            customer = f"customer-{number % ENTITIES}"
            producer.produce(TOPIC, an_order(f"order-{number:08d}", customer), customer.encode())
            number += 1
        producer.poll(0)
    producer.flush()


def an_order(order_id: str, customer: str) -> bytes:
    now_us = time.time_ns() // 1_000
    return orjson.dumps(
        {
            "order_id": order_id,
            "customer": customer,
            "shop": "shop-1",
            "country": "NL",
            "items": 1,
            "amount": 9.5,
            "discount": None,
            "express": False,
            "at": now_us,
            "known_at": now_us,
        }
    )


def raw_limit_ms(where: Machine) -> float:
    """Median of what a lone event takes to a plain consumer, on an idle broker."""
    topic = "raw-limit"
    create_topics(where.bootstrap, [(topic, topics.INGEST_DEAD_LETTERS)])
    consumer = Consumer({"bootstrap.servers": where.bootstrap, "group.id": "raw", **AT_ONCE})
    consumer.assign([TopicPartition(topic, 0, 0)])
    producer = Producer({"bootstrap.servers": where.bootstrap, "linger.ms": 0, **AT_ONCE})
    found = [_one(producer, consumer, topic) for _ in range(60)][10:]
    consumer.close()
    say(f"raw: {np.median(found):.1f} ms from produce to consume")
    return float(np.median(found))


def _one(producer: Any, consumer: Any, topic: str) -> float:
    begun_s = time.monotonic()
    producer.produce(topic, b"x", b"k", partition=0)
    producer.flush()
    while consumer.poll(5.0) is None:
        continue
    return (time.monotonic() - begun_s) * 1_000

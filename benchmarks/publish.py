# SPDX-License-Identifier: Apache-2.0
"""PublishStream on one core: batches through the door of ingest, each durable before its answer.

The records are none that the contract takes, so that the stream is stopped at once and the door has
the core for itself; the raw limit is a producer of librdkafka on the same core.
"""

from __future__ import annotations

import subprocess
import sys
import time

import grpc
import numpy as np

from benchmarks.ingest import DEFINITION, STREAM, TOPIC, records
from benchmarks.machine import SERVICE_CORE, Machine, ServiceUnderTest, machine, pinned
from benchmarks.outcome import Outcome, say
from headrace import topics
from headrace.admin import create_topics
from headrace.publishing import Item, publish_items

EVENTS, WARM = 300_000, 20_000
RAW = """
import sys, time
from confluent_kafka import Producer
producer = Producer({"bootstrap.servers": sys.argv[1], "linger.ms": 1, "acks": "all",
    "enable.idempotence": True, "partitioner": "murmur2_random"})
value, count, left = b"x" * 200, int(sys.argv[3]), []
begun = time.monotonic()
for number in range(count):
    while True:
        try:
            producer.produce(sys.argv[2], value, b"customer-%d" % (number % 10_000),
                headers=[("ce_id", b"order-%08d" % number)], on_delivery=lambda e, m: None)
            break
        except BufferError:
            producer.poll(0.01)
    if number % 1_000 == 0:
        producer.poll(0)
producer.flush()
print(count / (time.monotonic() - begun))
"""


def main() -> None:
    with machine() as where:
        wanted = [(TOPIC, topics.RAW), (topics.INGEST_RECORDS.of(STREAM), topics.INGEST_RECORDS)]
        create_topics(where.bootstrap, wanted)
        where.define(DEFINITION)
        with where.service("ingest") as ingest:
            channel = grpc.insecure_channel(ingest.address)
            publish_items(channel, STREAM, items()[:WARM])
            found = rate(ingest, channel)
        raw = raw_limit(where)
    say(Outcome("publish", found, "records/s", raw, "none set", ok=True).line())


def items() -> list[Item]:
    """The ingest benchmark's records without their last brace."""
    some = zip(range(EVENTS + WARM), records(), strict=False)
    return [Item(f"order-{number:08d}", key, value[:-1]) for number, (key, value) in some]


def rate(ingest: ServiceUnderTest, channel: grpc.Channel) -> float:
    made = items()[WARM:]
    begun_s, cpu_s = time.monotonic(), ingest.cpu_s()
    published = publish_items(channel, STREAM, made)
    found = published.accepted / (time.monotonic() - begun_s)
    cpu_us = (ingest.cpu_s() - cpu_s) / published.accepted * 1e6
    size = np.mean([len(item.value) for item in made])
    say(
        f"{found:,.0f} records/s of {size:.0f} bytes, {cpu_us:.2f} us of CPU a record, "
        f"RSS {ingest.rss_mb():,.0f} MB"
    )
    return found


def raw_limit(where: Machine) -> float:
    command = [*pinned(SERVICE_CORE), sys.executable, "-c", RAW, where.bootstrap, TOPIC]
    done = subprocess.run([*command, str(EVENTS)], check=True, capture_output=True, text=True)
    return float(done.stdout)

# SPDX-License-Identifier: Apache-2.0
"""Ingest on one core: raw records of ten columns, validated, deduplicated, delivered, archived.

The clock runs from a tenth of the records archived to all of them; the raw limit consumes the same
topic on the same core and does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import numpy as np
import orjson

from benchmarks.machine import ServiceUnderTest, machine, publish, rate, raw_limit
from benchmarks.outcome import Outcome, say
from headrace import topics
from headrace.admin import create_topics
from headrace.ingest.v1 import ingest_service_pb2 as pb
from headrace.ingest.v1 import ingest_service_pb2_grpc as service

EVENTS, ENTITIES = 1_000_000, 10_000
START_US, STEP_US = 1_700_000_000_000_000, 1_000
STREAM = "orders"
TOPIC = topics.RAW.of(STREAM)
BAR = 100_000
DEFINITION = {
    "kind": "stream",
    "name": STREAM,
    "description": "Orders.",
    "owner": "benchmark",
    "key": "customer",
    "id": "order_id",
    "event_time": "at",
    "known_time": "known_at",
    "lateness_allowed": "1h",
    "columns": {
        "order_id": {"type": "string", "required": True},
        "customer": {"type": "string", "required": True},
        "shop": {"type": "string", "one_of": [f"shop-{number}" for number in range(20)]},
        "country": {"type": "string", "trim": True},
        "items": {"type": "int64", "min": 1, "max": 1_000},
        "amount": {"type": "float64", "min": 0},
        "discount": {"type": "float64"},
        "express": {"type": "bool"},
        "at": {"type": "timestamp", "required": True},
        "known_at": {"type": "timestamp", "required": True},
    },
}


def main() -> None:
    with machine() as where:
        create_topics(
            where.bootstrap,
            [(TOPIC, topics.RAW), (topics.INGEST_RECORDS.of(STREAM), topics.INGEST_RECORDS)],
        )
        publish(where, TOPIC, records())
        raw = raw_limit(where, TOPIC, EVENTS)
        where.define(DEFINITION)
        with where.service("ingest", wait=False) as ingest:
            found = rate(where, ingest, "ingest", TOPIC, EVENTS)
            stored = count_stored(ingest)
    say(f"stored: {stored:,} of {EVENTS:,}")
    ok = found >= BAR and stored == EVENTS
    bar = f">= {BAR:,} events/s and every one stored"
    say(Outcome("ingest", found, "events/s", raw, bar, ok).line())


def records() -> Iterator[tuple[bytes, bytes]]:
    chance = np.random.default_rng(7)
    customers = chance.integers(0, ENTITIES, EVENTS).tolist()
    amounts = (chance.random(EVENTS).round(4) * 100).tolist()
    for number, (customer, amount) in enumerate(zip(customers, amounts, strict=True)):
        at = START_US + number * STEP_US
        value = {
            "order_id": f"order-{number:08d}",
            "customer": f"customer-{customer}",
            "shop": f"shop-{number % 20}",
            "country": "NL",
            "items": 1 + number % 9,
            "amount": amount,
            "discount": None if number % 3 else 0.25,
            "express": number % 5 == 0,
            "at": at,
            "known_at": at + 250,
        }
        yield f"customer-{customer}".encode(), orjson.dumps(value)


def count_stored(ingest: ServiceUnderTest) -> int:
    stub = service.DatasetServiceStub(grpc.insecure_channel(ingest.address))
    counts = stub.ListStreamCounts(pb.ListStreamCountsRequest(), timeout=10.0)
    return sum(stream.stored for stream in counts.streams)

# SPDX-License-Identifier: Apache-2.0
"""The feature engine on one core: 1,000,000 JSON events of 10,000 entities, state on disk.

Count, sum, mean, max and last over one minute and over all. The clock runs from a tenth of the
events stored to all of them stored; the raw limit consumes the same topic on the same core and
does nothing. Every answer is compared with a plain fold.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import orjson

from benchmarks.machine import Machine, ServiceUnderTest, machine, publish, rate, raw_limit
from benchmarks.outcome import Outcome, say
from benchmarks.peers.streams import stream_peers
from headrace import topics
from headrace.admin import create_topics
from headrace.feature.v1 import feature_service_pb2 as pb
from headrace.feature.v1 import feature_service_pb2_grpc as service

EVENTS, ENTITIES, KINDS = 1_000_000, 10_000, 8
START_US, STEP_US = 1_700_000_000_000_000, 1_000
STREAM = "clicks"
TOPIC = topics.INGEST_RECORDS.of(STREAM)
BAR, PEER_RATIO_BAR = 200_000, 3
Happened = tuple[int, str, float]  # when, which event, what amount
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
AGGREGATES = ("sum", "mean", "max", "last")


def view_definition(*windows: str) -> dict[str, Any]:
    """Five aggregates of a user's clicks over each window."""
    return {
        "kind": "view",
        "name": "user",
        "description": "What a user clicked.",
        "stream": STREAM,
        "entity": ["user"],
        "features": {
            **{f"count_{window}": {"aggregate": "count", "window": window} for window in windows},
            **{
                f"{aggregate}_{window}": {
                    "aggregate": aggregate,
                    "column": "amount",
                    "window": window,
                }
                for window in windows
                for aggregate in AGGREGATES
            },
        },
    }


VIEW_DEFINITION = view_definition("1m", "1d")


def main() -> None:
    with machine() as where:
        amounts = fill(where)
        raw = raw_limit(where, TOPIC, EVENTS)
        where.define(STREAM_DEFINITION, VIEW_DEFINITION)
        with where.service("feature", wait=False, keep_days="3650") as feature:
            found = rate(where, feature, "feature", TOPIC, EVENTS)
            wrong = mistakes(feature, amounts)
        peers = stream_peers(where, TOPIC, EVENTS)
    say(f"answers that differ from a plain fold: {wrong}")
    ok = found >= BAR and not wrong
    ok = ok and found >= PEER_RATIO_BAR * peers.get("kafka-streams", 0.0)
    bar = f">= {BAR:,} events/s, >= {PEER_RATIO_BAR} x kafka-streams, and every answer right"
    say(Outcome("stream", found, "events/s", raw, bar, ok, peers).line())


def fill(where: Machine) -> dict[str, list[Happened]]:
    """Publish the events as ingest would; by user, what happened."""
    create_topics(where.bootstrap, [(TOPIC, topics.INGEST_RECORDS)])
    happened: dict[str, list[Happened]] = defaultdict(list)
    publish(where, TOPIC, records(happened))
    say(f"{EVENTS:,} events of {len(happened):,} users are in {TOPIC}")
    return happened


def records(happened: dict[str, list[Happened]]) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of each event; notes by user what happened."""
    chance = np.random.default_rng(7)
    # Half of the events are those of a few users.
    users = np.where(
        np.arange(EVENTS) % 2,
        chance.integers(0, ENTITIES, EVENTS),
        np.minimum(chance.pareto(0.4, EVENTS), ENTITIES - 1),
    ).astype(int)
    amounts = chance.random(EVENTS).round(4) * 100
    for number, (user_number, amount) in enumerate(
        zip(users.tolist(), amounts.tolist(), strict=True)
    ):
        user, name = f"user-{user_number}", f"c-{number}"
        at = START_US + number * STEP_US
        happened[user].append((at, name, amount))
        envelope = {"_id": name, "_event_us": at, "_known_us": at, "_published_ms": at // 1000}
        columns = {"click_id": name, "user": user, "amount": amount, "at": at}
        value = {**envelope, "_late": False, "kind": f"kind-{number % KINDS}", **columns}
        yield user.encode(), orjson.dumps(value)


def mistakes(feature: ServiceUnderTest, happened: dict[str, list[Happened]]) -> int:
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


def plain(feature: str, events: list[Happened], moment: int) -> float:
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

# SPDX-License-Identifier: Apache-2.0
"""The run's own account: one object that people and machines read, made from what the topics hold.

Quality comes from the prediction log joined with the arrivals, read from Kafka here and now, not
from the trainer and not from the monitor. A value that was not measured is absent, never zero.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orjson
import polars as pl
from confluent_kafka import Consumer, TopicPartition

from flights_example.doors import ENDPOINT, STATIC
from flights_example.events import ARRIVED
from flights_example.replay import MONITOR, Outcome
from headrace import topics
from headrace.client import Client
from headrace.errors import Unavailable
from headrace.inference.v1 import inference_events_pb2 as inference_events
from headrace.prediction_log import logged_predictions
from headrace.registry.v1 import registry_events_pb2 as registry_events
from headrace_kit.offsets import topic_end_offsets

LATE_MIN = 15
READ_TIMEOUT_S = 120.0
# How long librdkafka gathers records before it gives what it has.
READ_WAIT_S = 0.2
READ_RECORDS = 10_000
_GATE = {registry_events.GATE_STATE_PASSED: "passed", registry_events.GATE_STATE_FAILED: "failed"}
Account = dict[str, Any]


def account(client: Client, outcome: Outcome, rss_mb_by_service: Mapping[str, float]) -> Account:
    """Every number of the summary; see the README's table for what each one means."""
    predictions = _predictions(client)
    freshness = client.freshness()
    incidents = client.incidents(MONITOR)
    return _without_absent(
        {
            "events": _events(client, outcome),
            "freshness_ms": {
                "p50": freshness.p50_ms if freshness.HasField("p50_ms") else None,
                "p99": freshness.p99_ms if freshness.HasField("p99_ms") else None,
            },
            "predictions": {
                "served": outcome.asked.served,
                "failed": outcome.asked.failed,
                "logged": predictions.filter(pl.col("endpoint") == ENDPOINT).height,
                "served_by_tensors": outcome.asked.served_by_tensors,
                "doors_differ": outcome.asked.doors_differ,
                "by_version": _by_version(predictions),
            },
            "latency_ms": _latency(outcome.asked.latencies_ms),
            "auc": {
                "static": _auc(predictions.filter(pl.col("endpoint") == STATIC)),
                "champion": _auc(predictions.filter(pl.col("endpoint") == ENDPOINT)),
                "champion_by_month": _by_month(predictions),
            },
            "versions": _versions(client),
            "incidents": [_incident(each) for each in incidents],
            "drift_to_promotion_s": _drift_to_promotion_s(incidents),
            "first_prediction_s": outcome.first_prediction_s,
            "wall_s": outcome.wall_s,
            "rss_mb_by_service": dict(rss_mb_by_service),
        }
    )


def everything_accounted(summary: Account) -> bool:
    """P13 over the whole run, to the record."""
    events = summary["events"]
    dead = sum(events["dead_lettered"].values())
    whole: bool = events["published"] == events["stored"] + dead + events["duplicates_dropped"]
    return whole


def _events(client: Client, outcome: Outcome) -> Account:
    counts = client.stream_counts()
    dead: Counter[str] = Counter()
    for stream in counts:
        dead.update(stream.dead_lettered_by_reason)
    return {
        "published": sum(outcome.published.values()),
        "stored": sum(stream.stored for stream in counts),
        "dead_lettered": dict(dead),
        "duplicates_dropped": sum(stream.repeats for stream in counts),
        "late": sum(stream.late for stream in counts),
    }


def _predictions(client: Client) -> pl.DataFrame:
    """One row for each prediction by entity keys, once by its id, with its label."""
    rows: dict[str, tuple[object, ...]] = {}
    for endpoint in (ENDPOINT, STATIC):
        for value in _values(client, topics.INFERENCE_PREDICTIONS.of(endpoint)):
            for made in logged_predictions(value):
                if made.door == inference_events.DOOR_ENTITY_KEYS:
                    row = (made.endpoint, made.entity_key, made.version, made.score)
                    rows[made.prediction_id] = row
    table = pl.DataFrame(
        list(rows.values()),
        schema={
            "endpoint": pl.String,
            "flight_id": pl.String,
            "version": pl.Int64,
            "score": pl.Float32,
        },
        orient="row",
    )
    return table.join(_arrivals(client), on="flight_id", how="left").with_columns(
        # No arrival: cancelled or diverted.
        label=(pl.col("arr_delay").fill_null(LATE_MIN + 1) > LATE_MIN),
        month=pl.col("flight_id").str.slice(0, 7),
    )


def _arrivals(client: Client) -> pl.DataFrame:
    delay_by_flight = {}
    for value in _values(client, topics.INGEST_RECORDS.of(ARRIVED)):
        record = orjson.loads(value)
        delay_by_flight[record["flight_id"]] = record["arr_delay"]
    return pl.DataFrame(
        {"flight_id": list(delay_by_flight), "arr_delay": list(delay_by_flight.values())},
        schema={"flight_id": pl.String, "arr_delay": pl.Int64},
    )


def _auc(predictions: pl.DataFrame) -> float | None:
    """Area under the ROC curve, ties at their mean rank; None without both classes."""
    positives = int(predictions["label"].sum())
    negatives = predictions.height - positives
    if not positives or not negatives:
        return None
    ranks = predictions["score"].rank("average").filter(predictions["label"])
    rank_sum = float(ranks.sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def _by_month(predictions: pl.DataFrame) -> dict[str, float | None]:
    ours = predictions.filter(pl.col("endpoint") == ENDPOINT).sort("month")
    groups = ours.group_by("month", maintain_order=True)
    return {str(month): _auc(group) for (month,), group in groups}


def _by_version(predictions: pl.DataFrame) -> dict[str, int]:
    ours = predictions.filter(pl.col("endpoint") == ENDPOINT)
    counts = ours.group_by("version").len().sort("version")
    return {str(version): count for version, count in counts.iter_rows()}


def _latency(latencies_ms: list[float]) -> Account:
    if not latencies_ms:
        return {}
    p50, p99 = np.percentile(latencies_ms, [50, 99]).tolist()
    return {"p50": p50, "p99": p99}


def _versions(client: Client) -> list[Account]:
    promoted_at = _promoted_at(client)
    return [
        _without_absent(
            {
                "version": each.version,
                "alias": next(
                    (a.alias for a in client.aliases(ENDPOINT) if a.version == each.version), None
                ),
                "trained_until": each.trained.trained_until_us / 1e6,
                "auc": each.trained.metrics.get("auc"),
                "gate": _GATE.get(each.gate.state),
                "promoted_at": promoted_at.get(each.version),
            }
        )
        for each in reversed(client.versions(ENDPOINT))
    ]


def _promoted_at(client: Client) -> dict[int, float]:
    """Wall-clock seconds since the epoch at which each version became champion."""
    moved = {}
    for value in _values(client, topics.REGISTRY_MODEL_VERSIONS.name):
        event = registry_events.ModelVersionEvent.FromString(value)
        alias = event.alias_moved.alias
        if event.HasField("alias_moved") and (alias.model, alias.alias) == (ENDPOINT, "champion"):
            moved[alias.version] = alias.moved_at_us / 1e6
    return moved


def _incident(incident: Any) -> Account:
    resolved = incident.resolved_at_us / 1e6 if incident.HasField("resolved_at_us") else None
    return _without_absent(
        {
            "kind": incident.kind,
            "detected_at": incident.detected_at_us / 1e6,
            "resolved_at": resolved,
            "action": incident.action,
        }
    )


def _drift_to_promotion_s(incidents: list[Any]) -> float | None:
    """Wall time from the first incident that led to a promotion until that promotion."""
    took = [
        (each.promoted_at_us - each.detected_at_us) / 1e6
        for each in incidents
        if each.HasField("promoted_at_us")
    ]
    return took[0] if took else None


def _values(client: Client, topic: str) -> Iterator[bytes]:
    """Every value of the topic up to where it ends now."""
    found = topic_end_offsets(client.addresses.kafka, [topic])
    ends = {partition.number: end for partition, end in found.items() if end > 0}
    consumer = Consumer(
        {
            "bootstrap.servers": client.addresses.kafka,
            "group.id": "flights-account",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
    )
    consumer.assign([TopicPartition(topic, number, 0) for number in ends])
    deadline = time.monotonic() + READ_TIMEOUT_S
    try:
        while ends:
            if time.monotonic() > deadline:
                raise Unavailable("BROKER_UNAVAILABLE", topic=topic, waited_s=READ_TIMEOUT_S)
            for message in consumer.consume(READ_RECORDS, timeout=READ_WAIT_S):
                if message.error():
                    raise Unavailable("BROKER_UNAVAILABLE", topic=topic)
                yield message.value()
                if message.offset() + 1 >= ends.get(message.partition(), 0):
                    ends.pop(message.partition(), None)
    finally:
        consumer.close()


def _without_absent(summary: Account) -> Account:
    """Nothing that is None, on any level: absent means not measured."""
    return {
        key: _without_absent(value) if isinstance(value, dict) else value
        for key, value in summary.items()
        if value is not None
    }

# SPDX-License-Identifier: Apache-2.0
"""Builders for tests of the monitor: a small application, and messages as its neighbours send them.

Hours are of event time, counted from `START_US`. Windows last an hour, a prediction is made an hour
before its flight, and a label that did not come within two hours of the flight will not come.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from headrace import topics
from headrace.application import Definition, parse_definition
from headrace.inference.v1 import inference_events_pb2 as inference_pb
from headrace.registry.v1 import registry_events_pb2 as registry_pb
from headrace.trainer.v1 import trainer_events_pb2 as trainer_pb
from headrace_kit.kafka import Message
from headrace_monitor.domain.watch import Watch, watches

HOUR_US = 3_600_000_000
START_US = 1_362_096_000_000_000  # 2013-03-01 00:00 UTC
FEATURES = ("flight:hour", "weather:wind")
SCHEDULED, ARRIVED = "flights.scheduled", "flights.arrived"
EDGES = (-1.0, 0.0, 1.0)
NORMAL = (95, 205, 205, 95, 0)  # 600 standard normal rows in the bins of EDGES, and those absent
SHIFTED = (1, 13, 82, 504, 0)  # the same about 2

_NETWORK = {
    "hidden": [8], "dropout": 0.1, "learning_rate": 0.001, "weight_decay": 0.0, "batch_rows": 64,
    "epochs_max": 2, "members": 1, "embedding_size": 4, "seed": 1,
}  # fmt: skip


def documents(**monitor: Any) -> list[dict[str, Any]]:
    """The application; keywords change the monitor."""
    return [
        *(_stream(name) for name in (SCHEDULED, ARRIVED)),
        {
            "kind": "recipe",
            "name": "delay",
            "description": "Will it be late?",
            "model": "delay",
            "spine": {
                "stream": SCHEDULED,
                "entity_key": "flight_id",
                "time": "at",
                "offset": "-1h",
            },
            "label": {
                "stream": ARRIVED,
                "key": "flight_id",
                "column": "delay",
                "above": 15,
                "absent_after": "2h",
            },
            "features": list(FEATURES),
            "network": _NETWORK,
            "gate": {"holdout": "7d", "auc_min": 0.6, "champion_margin": 0.01},
        },
        *(_endpoint(name) for name in ("delay", "delay-static")),
        {
            "kind": "monitor",
            "name": "delay",
            "description": "Watches the delays.",
            "endpoint": "delay",
            "recipe": "delay",
            "window": "1h",
            "drift": {
                "q": 0.01,
                "psi_floor": 0.2,
                "rows_min": 20,
                "windows_bad": 2,
                "windows": 3,
            },
            "quality": {"auc_drop": 0.2, "labelled_min": 40, "windows": 2},
            "policy": {"cooldown": "6h", "runs_max": 2, "budget": "24h"},
            **monitor,
        },
    ]


def definitions(**monitor: Any) -> dict[tuple[str, str], Definition]:
    parsed = [parse_definition(document) for document in documents(**monitor)]
    return {(one.kind, one.name): one for one in parsed}


def a_watch(**monitor: Any) -> Watch:
    return watches(definitions(**monitor))["delay"]


def at_us(hour: float) -> int:
    return START_US + round(hour * HOUR_US)


def a_definition(document: dict[str, Any]) -> Message:
    key = f"{document['kind']}/{document['name']}"
    value = registry_pb.Definition(
        kind=document["kind"], name=document["name"], spec_json=json.dumps(document).encode()
    )
    return _message(topics.REGISTRY_DEFINITIONS.name, key, value)


def a_schedule(flight: str, known: float) -> Message:
    """A record of the spine's stream."""
    return _record(SCHEDULED, flight, known, {"flight_id": flight, "at": at_us(known + 24)})


def an_arrival(flight: str, known: float, delay: float | None) -> Message:
    """A record of the label's stream."""
    return _record(ARRIVED, flight, known, {"flight_id": flight, "delay": delay})


def a_prediction(flight: str, as_of: float, **changes: Any) -> Message:
    """A row of the monitored endpoint as champion v1 answers it; keywords are fields of it."""
    fields: dict[str, Any] = {
        "prediction_id": f"{changes.get('endpoint', 'delay')}:{flight}",
        "endpoint": "delay",
        "model": "delay",
        "version": 1,
        "entity_key": flight,
        "as_of_us": at_us(as_of),
        "features": [0.5, 0.5],
        "score": 0.5,
        "arm": inference_pb.ARM_CHAMPION,
        "door": inference_pb.DOOR_ENTITY_KEYS,
        "rollout_generation": 1,
    }
    value = inference_pb.PredictionMade(**(fields | changes))
    return _message(topics.INFERENCE_PREDICTIONS.of(value.endpoint), flight, value)


def a_registered_version(
    version: int, *, run_id: str = "", auc: float = 0.8, first: Sequence[int] = NORMAL
) -> Message:
    """`first` are the reference counts of the first feature; those of the second stay."""
    reference = [
        trainer_pb.ReferenceHistogram(feature=feature, edges=EDGES, counts=counts)
        for feature, counts in zip(FEATURES, (first, NORMAL), strict=True)
    ]
    trained = trainer_pb.TrainedModel(
        model="delay", features=FEATURES, metrics={"auc": auc}, reference=reference
    )
    registered = registry_pb.ModelVersion(
        model="delay", version=version, run_id=run_id or f"run-{version}", trained=trained
    )
    event = registry_pb.ModelVersionEvent()
    event.version_registered.version.CopyFrom(registered)
    return _message(topics.REGISTRY_MODEL_VERSIONS.name, "delay", event)


def a_gate(version: int, *, passed: bool) -> Message:
    state = registry_pb.GATE_STATE_PASSED if passed else registry_pb.GATE_STATE_FAILED
    event = registry_pb.ModelVersionEvent()
    event.gate_evaluated.model, event.gate_evaluated.version = "delay", version
    event.gate_evaluated.gate.state = state
    return _message(topics.REGISTRY_MODEL_VERSIONS.name, "delay", event)


def a_rollout(
    generation: int, champion: int, canary: int = 0, *, endpoint: str = "delay", change: str = ""
) -> Message:
    rollout = registry_pb.Rollout(
        endpoint=endpoint, model="delay", generation=generation, change=change,
        changed_at_us=1_790_000_000_000_000 + generation,
    )  # fmt: skip
    rollout.champion.version = champion
    if canary:
        rollout.canary.version, rollout.canary_percent = canary, 50
    return _message(topics.REGISTRY_ROLLOUTS.name, endpoint, rollout)


def a_failed_run(run_id: str, reason: str = "TOO_FEW_ROWS") -> Message:
    event = trainer_pb.TrainingRunEvent(run_id=run_id, recipe="delay")
    event.failed.reason = reason
    return _message(topics.TRAINER_RUNS.name, run_id, event)


def _message(topic: str, key: str, value: Any) -> Message:
    return Message(topic, key.encode(), value.SerializeToString(deterministic=True))


def _record(stream: str, key: str, known: float, columns: dict[str, Any]) -> Message:
    topic = topics.INGEST_RECORDS.of(stream)
    headers = (("headrace-known-time", b"%d" % at_us(known)),)
    return Message(topic, key.encode(), json.dumps(columns).encode(), headers)


def _stream(name: str) -> dict[str, Any]:
    return {
        "kind": "stream",
        "name": name,
        "description": "Flights.",
        "owner": "tests",
        "key": "flight_id",
        "id": "flight_id",
        "event_time": "at",
        "lateness_allowed": "1d",
        "columns": {
            "flight_id": {"type": "string"},
            "at": {"type": "timestamp"},
            "delay": {"type": "float64"},
        },
    }


def _endpoint(name: str) -> dict[str, Any]:
    return {
        "kind": "endpoint",
        "name": name,
        "description": "Ask about a flight.",
        "model": "delay",
        "entity_key": "flight_id",
        "columns": {"flight_id": "string"},
        "rollout": {
            "canary_percent": 50,
            "outcomes_min": 30,
            "outcomes_max": 120,
            "alpha": 0.05,
        },
    }

# SPDX-License-Identifier: Apache-2.0
"""Builders for tests of the monitor: a small application, and messages as its neighbours send them.

Hours are of event time, counted from `START_US`. Windows last an hour, a prediction is made an hour
before its flight, and a label that did not come within two hours of the flight will not come.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headrace import topics
from headrace.application import Definition, parse_definition
from headrace.inference.v1 import inference_events_pb2 as inference_pb
from headrace.prediction_log import one_row_record
from headrace.registry.v1 import registry_events_pb2 as registry_pb
from headrace.trainer.v1 import trainer_events_pb2 as trainer_pb
from headrace_kit.kafka import Message
from headrace_monitor.domain.watch import Watch, watches

HOUR_US = 3_600_000_000
START_US = 1_362_096_000_000_000  # 2013-03-01 00:00 UTC
FEATURES = ("flight:hour", "weather:wind")
EDGES = (-1.0, 0.0, 1.0)
NORMAL = (95, 205, 205, 95, 0)  # 600 standard normal rows in the bins of EDGES, and those absent
SHIFTED = (1, 13, 82, 504, 0)  # the same about 2


def at_us(hour: float) -> int:
    return START_US + round(hour * HOUR_US)


@dataclass(frozen=True, slots=True)
class Scene:
    """An application and what happens around it; a tag keeps it apart from others on one broker."""

    tag: str = ""

    @property
    def name(self) -> str:
        """Of the monitor, its endpoint, recipe and model."""
        return f"delay{self.tag}"

    @property
    def static(self) -> str:
        """The endpoint that is compared."""
        return f"delay-static{self.tag}"

    @property
    def scheduled(self) -> str:
        """The spine's stream."""
        return f"flights.scheduled{self.tag}"

    @property
    def arrived(self) -> str:
        """The label's stream."""
        return f"flights.arrived{self.tag}"

    @property
    def entity_key(self) -> str:
        return f"flight_id{self.tag.replace('-', '_')}"

    def documents(self, **monitor: Any) -> list[dict[str, Any]]:
        """What the monitor needs of the application; keywords change the monitor."""
        return [
            self._recipe(),
            *(self._endpoint(name) for name in (self.name, self.static)),
            {
                "kind": "monitor",
                "name": self.name,
                "description": "Watches the delays.",
                "endpoint": self.name,
                "recipe": self.name,
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

    def definitions(self, **monitor: Any) -> dict[tuple[str, str], Definition]:
        parsed = [parse_definition(document) for document in self.documents(**monitor)]
        return {(one.kind, one.name): one for one in parsed}

    def a_watch(self, **monitor: Any) -> Watch:
        return watches(self.definitions(**monitor))[self.name]

    def a_schedule(self, flight: str, known: float) -> Message:
        """A record of the spine's stream."""
        return _record(self.scheduled, flight, known, {self.entity_key: flight})

    def an_arrival(self, flight: str, known: float, delay: float | None) -> Message:
        """A record of the label's stream."""
        columns = {self.entity_key: flight, "delay": delay}
        return _record(self.arrived, flight, known, columns)

    def a_prediction(self, flight: str, as_of: float, **changes: Any) -> Message:
        """A row of the own endpoint as champion v1 answers it; keywords as of `one_row_record`."""
        fields: dict[str, Any] = {
            "prediction_id": f"{changes.get('endpoint', self.name)}:{flight}",
            "endpoint": self.name,
            "model": self.name,
            "version": 1,
            "entity_key": flight,
            "as_of_us": at_us(as_of),
            "features": [0.5, 0.5],
            "score": 0.5,
            "arm": inference_pb.ARM_CHAMPION,
            "door": inference_pb.DOOR_ENTITY_KEYS,
            "rollout_generation": 1,
        }
        value = one_row_record(**(fields | changes))
        return _message(topics.INFERENCE_PREDICTIONS.of(value.endpoint), flight, value)

    def a_nonfinite(
        self, flight: str, as_of: float, *, arm: int = inference_pb.ARM_CANARY, generation: int = 1
    ) -> Message:
        """A request that an arm said NaN to."""
        value = inference_pb.PredictionsMade(
            endpoint=self.name,
            arm=arm,  # type: ignore[arg-type]
            rollout_generation=generation,
        )
        value.nonfinite.add(prediction_id=f"{self.name}:{flight}", as_of_us=at_us(as_of))
        return _message(topics.INFERENCE_PREDICTIONS.of(self.name), flight, value)

    def a_registered_version(
        self, version: int, *, run_id: str = "", auc: float = 0.8, first: Sequence[int] = NORMAL
    ) -> Message:
        """`first` are the reference counts of the first feature; those of the second stay."""
        reference = [
            trainer_pb.ReferenceHistogram(feature=feature, edges=EDGES, counts=counts)
            for feature, counts in zip(FEATURES, (first, NORMAL), strict=True)
        ]
        trained = trainer_pb.TrainedModel(
            model=self.name, features=FEATURES, metrics={"auc": auc}, reference=reference
        )
        run_id = run_id or f"run-{self.tag}-{version}"
        event = registry_pb.ModelVersionEvent()
        event.version_registered.version.CopyFrom(
            registry_pb.ModelVersion(
                model=self.name, version=version, run_id=run_id, trained=trained
            )
        )
        return _message(topics.REGISTRY_MODEL_VERSIONS.name, self.name, event)

    def a_gate(self, version: int, *, passed: bool) -> Message:
        state = registry_pb.GATE_STATE_PASSED if passed else registry_pb.GATE_STATE_FAILED
        event = registry_pb.ModelVersionEvent()
        event.gate_evaluated.model, event.gate_evaluated.version = self.name, version
        event.gate_evaluated.gate.state = state
        return _message(topics.REGISTRY_MODEL_VERSIONS.name, self.name, event)

    def a_rollout(self, generation: int, champion: int, canary: int = 0) -> Message:
        rollout = registry_pb.Rollout(
            endpoint=self.name,
            model=self.name,
            generation=generation,
            change="by a test",
            changed_at_us=1_790_000_000_000_000 + generation,
        )
        rollout.champion.version = champion
        if canary:
            rollout.canary.version, rollout.canary_percent = canary, 50
        return _message(topics.REGISTRY_ROLLOUTS.name, self.name, rollout)

    def a_failed_run(self, run_id: str, reason: str = "TOO_FEW_ROWS") -> Message:
        event = trainer_pb.TrainingRunEvent(run_id=run_id, recipe=self.name)
        event.failed.reason = reason
        return _message(topics.TRAINER_RUNS.name, run_id, event)

    def _recipe(self) -> dict[str, Any]:
        return {
            "kind": "recipe",
            "name": self.name,
            "description": "Will it be late?",
            "model": self.name,
            "spine": {
                "stream": self.scheduled,
                "entity_key": self.entity_key,
                "time": "at",
                "offset": "-1h",
            },
            "label": {
                "stream": self.arrived,
                "key": self.entity_key,
                "column": "delay",
                "above": 15,
                "absent_after": "2h",
            },
            "features": list(FEATURES),
            "network": {
                "hidden": [8],
                "dropout": 0.1,
                "learning_rate": 0.001,
                "weight_decay": 0.0,
                "batch_rows": 64,
                "epochs_max": 2,
                "members": 1,
                "embedding_size": 4,
                "seed": 1,
            },
            "gate": {"holdout": "7d", "auc_min": 0.6, "champion_margin": 0.01},
        }

    def _endpoint(self, name: str) -> dict[str, Any]:
        return {
            "kind": "endpoint",
            "name": name,
            "description": "Ask about a flight.",
            "model": self.name,
            "entity_key": self.entity_key,
            "columns": {self.entity_key: "string"},
            "rollout": {
                "canary_percent": 50,
                "outcomes_min": 30,
                "outcomes_max": 120,
                "alpha": 0.05,
            },
        }


def a_definition(document: dict[str, Any]) -> Message:
    key = f"{document['kind']}/{document['name']}"
    value = registry_pb.Definition(
        kind=document["kind"], name=document["name"], spec_json=json.dumps(document).encode()
    )
    return _message(topics.REGISTRY_DEFINITIONS.name, key, value)


def _message(topic: str, key: str, value: Any) -> Message:
    return Message(topic, key.encode(), value.SerializeToString(deterministic=True))


def _record(stream: str, key: str, known: float, columns: dict[str, Any]) -> Message:
    topic = topics.INGEST_RECORDS.of(stream)
    value = {"_known_us": at_us(known), **columns}
    return Message(topic, key.encode(), json.dumps(value).encode())

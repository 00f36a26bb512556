# SPDX-License-Identifier: Apache-2.0
"""Builders for tests of the registry: whole things with defaults for what a test does not name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from headrace import topics
from headrace.trainer.v1 import trainer_events_pb2
from headrace_kit.kafka import Record
from headrace_kit.testing import a_record
from headrace_registry.domain.alias import CHAMPION, SetAlias
from headrace_registry.domain.definition import ApplyDefinitions, SentDefinition
from headrace_registry.domain.rollout import CanaryJudged
from headrace_registry.domain.version import ReferenceHistogram, RunCompleted, TrainedModel

FLIGHTS: dict[str, Any] = {
    "kind": "stream",
    "name": "flights",
    "description": "Flights as they leave.",
    "owner": "tests",
    "key": "origin",
    "id": "flight_id",
    "event_time": "departed_at",
    "lateness_allowed": "1d",
    "columns": {
        "flight_id": {"type": "string", "required": True},
        "origin": {"type": "string", "required": True},
        "departed_at": {"type": "timestamp", "required": True},
        "delay": {"type": "float64"},
    },
}
VIEW: dict[str, Any] = {
    "kind": "view",
    "name": "origin-delay",
    "description": "How late an airport runs.",
    "stream": "flights",
    "entity": ["origin"],
    "features": {"mean_1h": {"aggregate": "mean", "column": "delay", "window": "1h"}},
}
RECIPE: dict[str, Any] = {
    "kind": "recipe",
    "name": "delay",
    "description": "Will it be late?",
    "model": "delay",
    "spine": {
        "stream": "flights",
        "entity_key": "flight_id",
        "time": "departed_at",
        "offset": "-1h",
    },
    "label": {
        "stream": "flights",
        "key": "flight_id",
        "column": "delay",
        "above": 15,
        "absent_after": "1d",
    },
    "features": ["origin-delay:mean_1h"],
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
    "gate": {"holdout": "7d", "auc_min": 0.7, "champion_margin": 0.01},
}
ENDPOINT: dict[str, Any] = {
    "kind": "endpoint",
    "name": "delay",
    "description": "Ask about a flight.",
    "model": "delay",
    "entity_key": "flight_id",
    "columns": {"flight_id": "string", "origin": "string"},
    "rollout": {"canary_percent": 20, "outcomes_min": 100, "outcomes_max": 1000, "alpha": 0.05},
}
DEFINITIONS = (FLIGHTS, VIEW, RECIPE, ENDPOINT)
# A digest for tests that store no bytes.
DIGEST = hashlib.sha256(b"a model").hexdigest()


def an_apply(
    *documents: dict[str, Any], request_id: str = "apply-1", application: str = "tests"
) -> ApplyDefinitions:
    """The command to apply these documents, or a small whole application."""
    sent = tuple(
        SentDefinition(each["kind"], each["name"], json.dumps(each).encode())
        for each in documents or DEFINITIONS
    )
    return ApplyDefinitions(request_id, application, sent)


def a_trained_model(
    *,
    model: str = "delay",
    digest: str = DIGEST,
    auc: float = 0.75,
    champion_auc: float | None = None,
    features: Sequence[str] = ("origin-delay:mean_1h",),
) -> TrainedModel:
    champion = {} if champion_auc is None else {"champion_auc": champion_auc}
    return TrainedModel(
        model=model,
        digest=digest,
        features=tuple(features),
        trained_until_us=1_362_096_000_000_000,
        metrics={"auc": auc, "log_loss": 0.5, "rows": 1000.0, "positives": 200.0, **champion},
        champion_version=0 if champion_auc is None else 1,
        reference=(ReferenceHistogram("origin-delay:mean_1h", (0.0, 5.0), (1, 2, 3, 4)),),
        manifest={"seed": "1"},
    )


def a_run(run_id: str = "run-1", *, ce_id: str = "", **trained: Any) -> RunCompleted:
    return RunCompleted(
        ce_id or f"{run_id}/completed", run_id, "delay", "", a_trained_model(**trained)
    )


def a_set_alias(
    version: int = 1,
    *,
    alias: str = CHAMPION,
    generation_expected: int = 1,
    request_id: str = "set-1",
    model: str = "delay",
) -> SetAlias:
    return SetAlias(request_id, model, alias, version, generation_expected)


def a_verdict(
    canary_version: int = 2,
    *,
    rollout_generation: int = 2,
    promote: bool = True,
    ce_id: str = "verdict-1",
    endpoint: str = "delay",
    model: str = "delay",
) -> CanaryJudged:
    return CanaryJudged(
        ce_id, endpoint, model, canary_version, rollout_generation, promote, "e-value 40 of 40"
    )


def run_record(run: RunCompleted, *, offset: int = 0) -> Record:
    """The run as the trainer publishes it."""
    trained = run.trained
    event = trainer_events_pb2.TrainingRunEvent(
        run_id=run.run_id,
        recipe=run.recipe,
        incident_id=run.incident_id,
        completed=trainer_events_pb2.RunCompleted(
            trained=trainer_events_pb2.TrainedModel(
                model=trained.model,
                digest=trained.digest,
                features=trained.features,
                trained_until_us=trained.trained_until_us,
                metrics=trained.metrics,
                champion_version=trained.champion_version,
                reference=[
                    trainer_events_pb2.ReferenceHistogram(
                        feature=each.feature, edges=each.edges, counts=each.counts
                    )
                    for each in trained.reference
                ],
                manifest=trained.manifest,
            )
        ),
    )
    return a_record(
        event.SerializeToString(),
        topic=topics.TRAINER_RUNS.name,
        offset=offset,
        key=run.run_id.encode(),
        headers={"ce_id": run.ce_id.encode()},
    )


def an_onnx_file(*, graph: bytes = b"", more: bytes = b"") -> bytes:
    """The least that is an ONNX model: IR version, operator set, graph; `more` fields follow."""
    opset = wire_bytes(8, wire_varint(2, 17))
    return wire_varint(1, 8) + opset + wire_bytes(7, graph) + more


def wire_varint(field: int, value: int) -> bytes:
    """A varint field in protobuf's wire format."""
    return _varint(field << 3) + _varint(value)


def wire_bytes(field: int, content: bytes) -> bytes:
    """A field of bytes, or of a message, in protobuf's wire format."""
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)

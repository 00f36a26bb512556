# SPDX-License-Identifier: Apache-2.0
"""Builders for tests of the registry: whole things with defaults for what a test does not name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import IO, Any

from headrace import topics
from headrace.protobuf_wire import bytes_field, number_field
from headrace.trainer.v1 import trainer_events_pb2
from headrace_kit.kafka import Record
from headrace_kit.testing import a_record
from headrace_registry.domain.acceptance import Acceptance, Finding
from headrace_registry.domain.alias import CHAMPION, SetAlias
from headrace_registry.domain.definition import ApplyDefinitions, SentDefinition
from headrace_registry.domain.description import Description
from headrace_registry.domain.onnx_file import check_onnx
from headrace_registry.domain.rollout import CanaryJudged, SetRollout
from headrace_registry.domain.signature import read_signature
from headrace_registry.domain.version import (
    ReferenceHistogram,
    RegisterVersion,
    RunCompleted,
    TrainedModel,
)


class TrustingVerifier:
    """SignatureVerifier that believes everybody: a bundle is its signer's name."""

    def verify(self, bundle: bytes, *, name: str, digest: str) -> str:
        return bundle.decode()


class ReadingAcceptor:
    """Acceptor without a child: it reads the signature, runs nothing, and finds what it is told."""

    def __init__(self, *findings: Finding) -> None:
        self.findings = findings
        self.latency_ms: float | None = None

    def accept(self, file: IO[bytes]) -> Acceptance:
        file.seek(0)
        data = file.read()
        check_onnx(data)
        return Acceptance(read_signature(data), self.findings, self.latency_ms)


@contextmanager
def a_file(data: bytes = b"") -> Iterator[IO[bytes]]:
    """On disk; without bytes it is what a Spool gives."""
    with TemporaryFile() as file:
        file.write(data)
        yield file


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
# An endpoint without features and the model behind it, whose versions come from elsewhere.
MODEL: dict[str, Any] = {
    "kind": "model",
    "name": "fraud",
    "description": "Comes from a laboratory.",
    "gate": {"metrics": {"accuracy": {"min": 0.9}, "latency_ms": {"max": 5}}},
}
TENSORS_ENDPOINT: dict[str, Any] = {
    "kind": "endpoint",
    "name": "fraud",
    "description": "Ask by tensors.",
    "model": "fraud",
}


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
    digest: str = "",
    auc: float = 0.75,
    champion_auc: float | None = None,
    latency_ms: float = 0.1,
    features: Sequence[str] = ("origin-delay:mean_1h",),
) -> TrainedModel:
    champion = {} if champion_auc is None else {"champion_auc": champion_auc}
    return TrainedModel(
        model=model,
        digest=digest or DIGEST,
        features=tuple(features),
        trained_until_us=1_362_096_000_000_000,
        metrics={
            "auc": auc,
            "log_loss": 0.5,
            "rows": 1000.0,
            "positives": 200.0,
            "latency_ms": latency_ms,
            **champion,
        },
        champion_version=0 if champion_auc is None else 1,
        reference=(ReferenceHistogram("origin-delay:mean_1h", (0.0, 5.0), (1, 2, 3, 4)),),
        manifest={"seed": "1"},
    )


def a_run(run_id: str = "run-1", *, ce_id: str = "", **trained: Any) -> RunCompleted:
    return RunCompleted(
        ce_id or f"{run_id}/completed", run_id, "delay", "", a_trained_model(**trained)
    )


def a_registration(
    request_id: str = "register-1",
    *,
    model: str = "fraud",
    digest: str = "",
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    card: str = "",
) -> RegisterVersion:
    """Of the small file, with metrics that pass the gate of MODEL unless told."""
    given = {"accuracy": 0.95, "latency_ms": 2.0} if metrics is None else metrics
    return RegisterVersion(
        request_id, model, digest or DIGEST, given, Description(tags or {}, card)
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


def a_set_rollout(
    canary_version: int = 0,
    *,
    canary_percent: int = 0,
    judged: bool = False,
    stopped: bool = False,
    endpoint: str = "delay",
    generation_expected: int = 1,
    request_id: str = "rollout-1",
    reason: str = "to compare",
) -> SetRollout:
    return SetRollout(
        request_id,
        endpoint,
        generation_expected,
        canary_version,
        canary_percent,
        judged,
        stopped,
        reason,
    )


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


def an_onnx_file(
    *,
    graph: bytes = b"",
    more: bytes = b"",
    inputs: Sequence[bytes] | None = None,
    outputs: Sequence[bytes] | None = None,
) -> bytes:
    """The least that is an ONNX model with a signature; `graph` and `more` add fields.

    Unless told, it takes `x` FP32 [-1, 2] and gives `y` FP32 [-1].
    """
    opset = bytes_field(8, number_field(2, 17))
    taken = [a_value("x", 1, (None, 2))] if inputs is None else inputs
    given = [a_value("y", 1, (None,))] if outputs is None else outputs
    values = b"".join([*(bytes_field(11, v) for v in taken), *(bytes_field(12, v) for v in given)])
    return number_field(1, 8) + opset + bytes_field(7, graph + values) + more


def a_value(name: str, element: int, shape: Sequence[int | str | None] | None) -> bytes:
    """A ValueInfoProto of a tensor: a dimension is a number, a name or nothing."""
    sizes = b"" if shape is None else bytes_field(2, b"".join(_dimension(size) for size in shape))
    tensor = number_field(1, element) + sizes
    return bytes_field(1, name.encode()) + bytes_field(2, bytes_field(1, tensor))


def _dimension(size: int | str | None) -> bytes:
    if isinstance(size, str):
        return bytes_field(1, bytes_field(2, size.encode()))
    return bytes_field(1, b"" if size is None else number_field(1, size))


# What the artifacts of tests hold, and its name.
ONNX = an_onnx_file()
DIGEST = hashlib.sha256(ONNX).hexdigest()

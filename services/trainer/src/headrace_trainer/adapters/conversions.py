# SPDX-License-Identifier: Apache-2.0
"""Between protobuf and the domain, both ways, and nowhere else."""

from __future__ import annotations

import hashlib

from headrace import topics
from headrace.trainer.v1 import trainer_events_pb2 as events
from headrace.trainer.v1 import trainer_service_pb2 as service
from headrace_kit.kafka import Message
from headrace_trainer.domain.run import (
    Histogram,
    Run,
    RunState,
    TrainedModel,
    TrainingRequest,
)

_STATE = {
    RunState.QUEUED: service.RUN_STATE_QUEUED,
    RunState.RUNNING: service.RUN_STATE_RUNNING,
    RunState.COMPLETED: service.RUN_STATE_COMPLETED,
    RunState.FAILED: service.RUN_STATE_FAILED,
}


def request_from_event(value: bytes) -> TrainingRequest:
    """Raises protobuf's DecodeError for bytes that are no TrainingRequest."""
    message = events.TrainingRequest.FromString(value)
    return TrainingRequest(
        message.request_id, message.recipe, message.known_until_us, message.incident_id
    )


def request_from_rpc(request: service.SubmitRunRequest) -> TrainingRequest:
    return TrainingRequest(request.request_id, request.recipe, request.known_until_us)


def run_to_proto(run: Run) -> service.Run:
    message = service.Run(
        run_id=run.run_id,
        recipe=run.request.recipe,
        known_until_us=run.known_until_us,
        state=_STATE[run.state],
        progress=run.progress,
        reason=run.reason,
        detail=run.detail,
    )
    if run.trained is not None:
        message.trained.CopyFrom(trained_to_proto(run.trained))
    return message


def trained_to_proto(trained: TrainedModel) -> events.TrainedModel:
    return events.TrainedModel(
        model=trained.model,
        digest=trained.digest,
        features=trained.features,
        trained_until_us=trained.trained_until_us,
        metrics=trained.metrics,
        champion_version=trained.champion_version,
        reference=[
            events.ReferenceHistogram(
                feature=h.feature,
                edges=h.edges,
                counts=h.counts,
                effective_rows=h.effective_rows,
            )
            for h in trained.reference
        ],
        manifest=trained.manifest,
    )


def trained_from_bytes(value: bytes) -> TrainedModel:
    message = events.TrainedModel.FromString(value)
    return TrainedModel(
        model=message.model,
        digest=message.digest,
        features=tuple(message.features),
        trained_until_us=message.trained_until_us,
        metrics=dict(message.metrics),
        champion_version=message.champion_version,
        reference=tuple(
            Histogram(h.feature, tuple(h.edges), tuple(h.counts), h.effective_rows)
            for h in message.reference
        ),
        manifest=dict(message.manifest),
    )


def event_of(run: Run) -> Message:
    """What `trainer.runs` says of the run's state; its id is the same however often it is sent."""
    event = events.TrainingRunEvent(
        run_id=run.run_id, recipe=run.request.recipe, incident_id=run.request.incident_id
    )
    if run.state is RunState.RUNNING:
        event.started.known_until_us = run.known_until_us
    elif run.trained is not None:
        event.completed.trained.CopyFrom(trained_to_proto(run.trained))
    else:
        event.failed.reason = run.reason
    ce_id = hashlib.sha256(f"{run.run_id}|{run.state}".encode()).hexdigest()[:32]
    headers = (("ce_id", ce_id.encode()), ("ce_type", b"headrace.trainer.v1.TrainingRunEvent"))
    return Message(
        topics.TRAINER_RUNS.name, run.run_id.encode(), event.SerializeToString(), headers
    )

# SPDX-License-Identifier: Apache-2.0
"""Records of the platform's topics to what the handlers fold, and what they emit to messages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from google.protobuf.message import DecodeError

from headrace import topics
from headrace.errors import Invalid
from headrace.inference.v1 import inference_events_pb2 as inference_pb
from headrace.monitor.v1 import monitor_events_pb2 as events_pb
from headrace.monitor.v1 import monitor_service_pb2 as service_pb
from headrace.prediction_log import LoggedPrediction, read_record, rows_of
from headrace.registry.v1 import registry_events_pb2 as registry_pb
from headrace.trainer.v1 import trainer_events_pb2 as trainer_pb
from headrace_kit.kafka import Message, Record
from headrace_monitor.domain.canary import Decision
from headrace_monitor.domain.drift import DriftedFeature, Histogram, Reference
from headrace_monitor.domain.ids import cause_id
from headrace_monitor.domain.incident import (
    GateState,
    Incident,
    IncidentState,
    Rollout,
    RunFailed,
    TrainingRequest,
)
from headrace_monitor.domain.prediction import Door, Nonfinite, Prediction
from headrace_monitor.domain.progress import Progress
from headrace_monitor.domain.verdict import (
    CanaryVerdict,
    DriftVerdict,
    QualityVerdict,
    Verdict,
)
from headrace_monitor.domain.version import KnownVersion
from headrace_monitor.handlers.batch import Event
from headrace_monitor.handlers.facts import Fact, GateEvaluated
from headrace_monitor.handlers.quality_report import QualitySlice
from headrace_monitor.handlers.queries import LoopState

TIME_US_MAX = 1 << 53  # the year 2255
DOOR = {
    inference_pb.DOOR_ENTITY_KEYS: Door.ENTITY_KEYS,
    inference_pb.DOOR_TENSORS: Door.TENSORS,
}
GATE = {
    registry_pb.GATE_STATE_PASSED: GateState.PASSED,
    registry_pb.GATE_STATE_FAILED: GateState.FAILED,
    registry_pb.GATE_STATE_RETRACTED: GateState.FAILED,
}
STATE = {
    IncidentState.TRAINING: events_pb.INCIDENT_STATE_TRAINING,
    IncidentState.CANARY: events_pb.INCIDENT_STATE_CANARY,
    IncidentState.RESOLVED: events_pb.INCIDENT_STATE_RESOLVED,
}
DECISION = {
    Decision.PROMOTE: events_pb.CANARY_DECISION_PROMOTE,
    Decision.ROLL_BACK: events_pb.CANARY_DECISION_ROLL_BACK,
}


def predictions(record: Record) -> tuple[list[Prediction], list[Nonfinite]]:
    """The answers of a record, and what was none.

    Raises Invalid DECODE_ERROR, MISSING_FIELD, OUT_OF_RANGE, BAD_TIMESTAMP, NONFINITE.
    """
    made = read_record(record.value or b"")
    answers = [_prediction(row, record) for row in rows_of(made)]
    return answers, [_nonfinite(made, each, record) for each in made.nonfinite]


def _nonfinite(
    made: inference_pb.PredictionsMade, request: inference_pb.NonfiniteRequest, record: Record
) -> Nonfinite:
    if not request.prediction_id or made.arm == inference_pb.ARM_UNSPECIFIED:
        raise Invalid("MISSING_FIELD", offset=record.offset)
    if made.rollout_generation < 0:
        raise Invalid("OUT_OF_RANGE", prediction_id=request.prediction_id)
    if not 0 <= request.as_of_us < TIME_US_MAX:
        raise Invalid("BAD_TIMESTAMP", prediction_id=request.prediction_id)
    return Nonfinite(
        prediction_id=request.prediction_id,
        endpoint=made.endpoint,
        as_of_us=request.as_of_us,
        canary=made.arm == inference_pb.ARM_CANARY,
        generation=made.rollout_generation,
    )


def _prediction(made: LoggedPrediction, record: Record) -> Prediction:
    if not (made.prediction_id and made.endpoint and made.door in DOOR):
        raise Invalid("MISSING_FIELD", offset=record.offset)
    if made.version < 1 or made.shadow_version < 0 or made.rollout_generation < 0:
        raise Invalid("OUT_OF_RANGE", prediction_id=made.prediction_id)
    if not 0 <= made.as_of_us < TIME_US_MAX:
        raise Invalid("BAD_TIMESTAMP", prediction_id=made.prediction_id)
    if not (math.isfinite(made.score) and math.isfinite(made.shadow_score)):
        raise Invalid("NONFINITE", prediction_id=made.prediction_id)
    return Prediction(
        prediction_id=made.prediction_id,
        endpoint=made.endpoint,
        model=made.model,
        version=made.version,
        entity_key=made.entity_key,
        as_of_us=made.as_of_us,
        features=made.features,
        score=made.score,
        canary_answered=made.arm == inference_pb.ARM_CANARY,
        door=DOOR[made.door],
        generation=made.rollout_generation,
        shadow_version=made.shadow_version,
        shadow_score=made.shadow_score,
    )


def known_us(record: Record, value: Mapping[str, Any]) -> int:
    """When the platform learned it; Invalid BAD_TIMESTAMP unless ingest said so in the value."""
    known = value.get("_known_us")
    if type(known) is not int or not 0 <= known < TIME_US_MAX:
        raise Invalid("BAD_TIMESTAMP", topic=record.topic, offset=record.offset)
    return known


def facts(record: Record) -> list[Fact]:
    """What a record of the trainer's or the registry's topics says; nothing new for some."""
    if record.topic == topics.TRAINER_RUNS.name:
        return _run_facts(_parsed(trainer_pb.TrainingRunEvent, record))
    if record.topic == topics.REGISTRY_MODEL_VERSIONS.name:
        return _version_facts(_parsed(registry_pb.ModelVersionEvent, record))
    if record.value is None:
        return []  # an endpoint that is gone: what it served is history
    return [_rollout(_parsed(registry_pb.Rollout, record))]


def message(event: Event) -> Message:
    """What to publish; `ce_id` is a hash of the cause, so that a repeat is known as one."""
    if isinstance(event, TrainingRequest):
        request = trainer_pb.TrainingRequest(
            request_id=event.request_id,
            recipe=event.recipe,
            known_until_us=event.known_until_us,
            incident_id=event.incident_id,
        )
        topic = topics.TRAINER_REQUESTS.name
        return _message(topic, event.request_id, request, event.request_id)
    if isinstance(event, Incident):
        now = (event.state.value, event.action, event.version_after)
        ce_id = cause_id(event.incident_id, *now)
        topic = topics.MONITOR_INCIDENTS.name
        return _message(topic, event.incident_id, incident_proto(event), ce_id)
    topic = topics.MONITOR_VERDICTS.name
    return _message(topic, event.judged.endpoint, verdict_proto(event), event.judged.verdict_id)


def verdict_proto(verdict: Verdict) -> events_pb.VerdictReached:
    judged = verdict.judged
    reached = events_pb.VerdictReached(
        verdict_id=judged.verdict_id,
        monitor=judged.monitor,
        endpoint=judged.endpoint,
        model=judged.model,
        version=judged.version,
        window_end_us=judged.window_end_us,
    )
    if isinstance(verdict, DriftVerdict):
        _fill_drift(reached.drift, verdict)
    elif isinstance(verdict, QualityVerdict):
        reached.quality.degraded = verdict.degraded
        reached.quality.labelled = verdict.labelled
        reached.quality.auc = verdict.auc
        reached.quality.auc_reference = verdict.auc_reference
        reached.quality.evidence = verdict.evidence
    else:
        _fill_canary(reached.canary, verdict)
    return reached


def incident_proto(incident: Incident) -> events_pb.Incident:
    return events_pb.Incident(
        incident_id=incident.incident_id,
        monitor=incident.monitor,
        endpoint=incident.endpoint,
        kind=incident.kind.value,
        state=STATE[incident.state],
        window_end_us=incident.window_end_us,
        detected_at_us=incident.detected_at_us,
        resolved_at_us=incident.resolved_at_us,
        action=incident.action,
        run_id=incident.run_id,
        version=incident.version,
        version_after=incident.version_after,
        promoted_at_us=incident.promoted_at_us,
        drifted=map(_drifted_proto, incident.drifted),
    )


def _drifted_proto(drifted: DriftedFeature) -> events_pb.DriftedFeature:
    bins = [events_pb.DriftedBin(**asdict(each)) for each in drifted.bins]
    return events_pb.DriftedFeature(feature=drifted.feature, place=drifted.place, bins=bins)


def loop_response(state: LoopState) -> service_pb.GetLoopResponse:
    return service_pb.GetLoopResponse(
        evaluated_until_us=max(0, state.evaluated_until_us),
        settled=state.settled,
        rollout_generation_by_endpoint=state.generation_by_endpoint,
    )


def quality_response(
    slices: Iterable[QualitySlice], progress: Progress
) -> service_pb.GetQualityResponse:
    response = service_pb.GetQualityResponse(
        predictions=progress.predictions, labelled=progress.labelled
    )
    for part in slices:
        response.slices.add(
            endpoint=part.endpoint,
            month=part.period,
            version=part.version,
            labelled=part.quality.labelled,
            positives=part.quality.positives,
            auc=part.quality.auc,
            log_loss=part.quality.log_loss,
        )
    return response


def incidents_response(incidents: Iterable[Incident]) -> service_pb.ListIncidentsResponse:
    return service_pb.ListIncidentsResponse(incidents=map(incident_proto, incidents))


def _parsed(kind: Any, record: Record) -> Any:
    try:
        return kind.FromString(record.value or b"")
    except DecodeError as err:
        raise Invalid("DECODE_ERROR", topic=record.topic, offset=record.offset) from err


def _run_facts(event: trainer_pb.TrainingRunEvent) -> list[Fact]:
    failed = event.WhichOneof("event") == "failed"
    return [RunFailed(event.run_id, event.failed.reason)] if failed else []


def _version_facts(event: registry_pb.ModelVersionEvent) -> list[Fact]:
    which = event.WhichOneof("event")
    if which == "gate_evaluated":
        gate = event.gate_evaluated
        return [GateEvaluated(gate.model, gate.version, _gate_state(gate.gate.state))]
    if which != "version_registered":
        return []
    version = event.version_registered.version
    found: list[Fact] = [_known_version(version)]
    if version.gate.state in (registry_pb.GATE_STATE_PASSED, registry_pb.GATE_STATE_FAILED):
        found.append(GateEvaluated(version.model, version.version, GATE[version.gate.state]))
    return found


def _gate_state(state: Any) -> GateState:
    """A gate that waits for somebody, or for what only a newer registry knows, is not decided."""
    return GATE.get(state, GateState.UNKNOWN)


def _known_version(version: registry_pb.ModelVersion) -> KnownVersion:
    trained = version.trained
    histograms = tuple(
        Histogram(one.feature, tuple(one.edges), tuple(one.counts), one.effective_rows)
        for one in trained.reference
        if one.feature in trained.features and len(one.counts) == len(one.edges) + 2
    )
    return KnownVersion(
        model=version.model,
        version=version.version,
        run_id=version.run_id,
        trained_until_us=trained.trained_until_us,
        auc=trained.metrics.get("auc"),
        reference=Reference(tuple(trained.features), histograms),
    )


def _rollout(rollout: registry_pb.Rollout) -> Rollout:
    return Rollout(
        endpoint=rollout.endpoint,
        model=rollout.model,
        generation=rollout.generation,
        champion=rollout.champion.version,
        canary=rollout.canary.version,
        canary_percent=rollout.canary_percent,
        change=rollout.change,
        changed_at_us=rollout.changed_at_us,
    )


def _fill_drift(proto: events_pb.DriftVerdict, verdict: DriftVerdict) -> None:
    proto.drifted = bool(verdict.features)
    proto.rows = verdict.rows
    proto.alarmed = verdict.alarmed
    proto.evidence = verdict.evidence
    for one in verdict.features:
        proto.features.add(feature=one.feature, psi=one.psi, p_value=one.p_value)


def _fill_canary(proto: events_pb.CanaryVerdict, verdict: CanaryVerdict) -> None:
    proto.canary_version = verdict.canary_version
    proto.rollout_generation = verdict.generation
    proto.decision = DECISION[verdict.decision]
    proto.outcomes = verdict.outcomes
    proto.e_better, proto.e_worse = verdict.e_better, verdict.e_worse
    proto.evidence = verdict.evidence


def _message(topic: str, key: str, event: Any, ce_id: str) -> Message:
    headers = {
        "ce_specversion": "1.0",
        "ce_type": event.DESCRIPTOR.full_name,
        "ce_source": "monitor",
        "ce_id": ce_id,
    }
    return Message(
        topic,
        key.encode(),
        event.SerializeToString(deterministic=True),
        tuple((name, value.encode()) for name, value in headers.items()),
    )

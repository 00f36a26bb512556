# SPDX-License-Identifier: Apache-2.0
"""Protobuf to domain and back, the only place where both are seen.

The id of an event is made of what it tells, so that every repeat of it, by the relay or by another
replica, carries the same one.
"""

from __future__ import annotations

from dataclasses import asdict

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtoMessage

from headrace import topics
from headrace.errors import Invalid
from headrace.monitor.v1 import monitor_events_pb2
from headrace.registry.v1 import registry_events_pb2, registry_service_pb2
from headrace.registry_state import SOURCE
from headrace.topics import Topic
from headrace.trainer.v1 import trainer_events_pb2
from headrace_kit.kafka import Message, Record
from headrace_registry.domain.alias import Alias, SetAlias
from headrace_registry.domain.artifact import ArtifactMetadata
from headrace_registry.domain.change import Change
from headrace_registry.domain.definition import (
    ApplyDefinitions,
    Definition,
    DefinitionRetracted,
    RetractDefinition,
    SentDefinition,
)
from headrace_registry.domain.description import Description
from headrace_registry.domain.gate import Gate, GateState
from headrace_registry.domain.lineage import VersionLineage
from headrace_registry.domain.page import (
    GetLineage,
    ListAliasMoves,
    ListChanges,
    ListVersions,
    Model,
)
from headrace_registry.domain.rollout import CanaryJudged, Rollout, ServedVersion, SetRollout
from headrace_registry.domain.signature import Signature, TensorSignature
from headrace_registry.domain.signing import SignVersion
from headrace_registry.domain.version import (
    ApproveVersion,
    DescribeVersion,
    GateOpened,
    ModelVersion,
    ReferenceHistogram,
    RegisterVersion,
    RetractVersion,
    RunCompleted,
    TrainedModel,
    VersionDescribed,
    VersionRetracted,
    VersionSigned,
)
from headrace_registry.ports import Event

CE_ID_LENGTH_MAX = 512
EVIDENCE_LENGTH_MAX = 500
ROLL_BACK = monitor_events_pb2.CANARY_DECISION_ROLL_BACK
PROMOTE = monitor_events_pb2.CANARY_DECISION_PROMOTE
STATES = {
    GateState.PASSED: registry_events_pb2.GATE_STATE_PASSED,
    GateState.FAILED: registry_events_pb2.GATE_STATE_FAILED,
    GateState.AWAITS_APPROVAL: registry_events_pb2.GATE_STATE_AWAITS_APPROVAL,
    GateState.AWAITS_SIGNATURE: registry_events_pb2.GATE_STATE_AWAITS_SIGNATURE,
    GateState.RETRACTED: registry_events_pb2.GATE_STATE_RETRACTED,
}


def run_completed(record: Record) -> RunCompleted | None:
    """None for another event. Raises Invalid DECODE_ERROR, MISSING_FIELD or OUT_OF_RANGE."""
    event = trainer_events_pb2.TrainingRunEvent()
    _decode(event, record)
    if event.WhichOneof("event") != "completed":
        return None
    trained = _trained(event.completed.trained)
    return RunCompleted(_ce_id(record), event.run_id, event.recipe, event.incident_id, trained)


def canary_judged(record: Record) -> CanaryJudged | None:
    """None for another verdict. Raises Invalid DECODE_ERROR, MISSING_FIELD or OUT_OF_RANGE."""
    event = monitor_events_pb2.VerdictReached()
    _decode(event, record)
    if event.WhichOneof("verdict") != "canary":
        return None
    canary = event.canary
    if canary.decision not in (PROMOTE, ROLL_BACK):
        raise Invalid("OUT_OF_RANGE", column="canary.decision", value=canary.decision)
    return CanaryJudged(
        ce_id=_ce_id(record),
        endpoint=event.endpoint,
        model=event.model,
        canary_version=canary.canary_version,
        rollout_generation=canary.rollout_generation,
        promote=canary.decision == PROMOTE,
        evidence=_line(canary.evidence),
    )


def messages_of(event: Event) -> list[Message]:
    """The event as it goes to Kafka."""
    if isinstance(event, Definition):
        proto = definition_proto(event)
        name, subject = _name_and_subject(event)
        return [_message(topics.REGISTRY_DEFINITIONS, name, subject, proto)]
    if isinstance(event, DefinitionRetracted):
        return [_tombstone(event.definition)]
    if isinstance(event, Rollout):
        subject = f"rollout/{event.endpoint}/{event.generation}"
        proto = rollout_proto(event)
        return [_message(topics.REGISTRY_ROLLOUTS, event.endpoint, subject, proto)]
    if isinstance(event, Alias):
        subject = f"alias/{event.model}/{event.alias}/{event.generation}"
        moved = registry_events_pb2.AliasMoved(alias=alias_proto(event))
        return [_of_version(event.model, subject, alias_moved=moved)]
    if isinstance(event, GateOpened):
        return [_gate_evaluated(event.version, f"approval/{_name(event.version)}")]
    if isinstance(event, VersionRetracted):
        return [_gate_evaluated(event.version, f"retraction/{_name(event.version)}")]
    if isinstance(event, VersionDescribed):
        return [_described(event.version)]
    if isinstance(event, VersionSigned):
        return [_signed(event.version)]
    return _registered(event)


def apply_definitions(
    request: registry_service_pb2.ApplyDefinitionsRequest,
) -> ApplyDefinitions:
    sent = tuple(SentDefinition(d.kind, d.name, d.spec_json) for d in request.definitions)
    return ApplyDefinitions(request.request_id, request.application, sent, request.reason)


def retract_definition(
    request: registry_service_pb2.RetractDefinitionRequest,
) -> RetractDefinition:
    return RetractDefinition(request.request_id, request.kind, request.name, request.reason)


def set_alias(request: registry_service_pb2.SetAliasRequest) -> SetAlias:
    return SetAlias(
        request_id=request.request_id,
        model=request.model,
        alias=request.alias,
        version=request.version,
        generation_expected=request.generation_expected,
        reason=request.reason,
    )


def set_rollout(request: registry_service_pb2.SetRolloutRequest) -> SetRollout:
    return SetRollout(
        request_id=request.request_id,
        endpoint=request.endpoint,
        generation_expected=request.generation_expected,
        canary_version=request.canary_version,
        canary_percent=request.canary_percent,
        judged=request.judged,
        stopped=request.stopped,
        reason=request.reason,
    )


def list_changes(request: registry_service_pb2.ListChangesRequest) -> ListChanges:
    return ListChanges(request.model, request.page_size, request.page_token)


def list_alias_moves(request: registry_service_pb2.ListAliasMovesRequest) -> ListAliasMoves:
    return ListAliasMoves(request.model, request.alias, request.page_size, request.page_token)


def change_proto(change: Change) -> registry_service_pb2.Change:
    return registry_service_pb2.Change(**asdict(change))


def register_version(request: registry_service_pb2.RegisterVersionRequest) -> RegisterVersion:
    """Maps are sorted, so that a repeat of the request reads the same."""
    return RegisterVersion(
        request_id=request.request_id,
        model=request.model,
        digest=request.digest,
        metrics=dict(sorted(request.metrics.items())),
        description=Description(dict(sorted(request.tags.items())), request.card),
        reason=request.reason,
    )


def approve_version(request: registry_service_pb2.ApproveVersionRequest) -> ApproveVersion:
    return ApproveVersion(
        request_id=request.request_id,
        model=request.model,
        version=request.version,
        approver=request.approver,
        reason=request.reason,
    )


def retract_version(request: registry_service_pb2.RetractVersionRequest) -> RetractVersion:
    return RetractVersion(request.request_id, request.model, request.version, request.reason)


def describe_version(request: registry_service_pb2.DescribeVersionRequest) -> DescribeVersion:
    return DescribeVersion(
        request_id=request.request_id,
        model=request.model,
        version=request.version,
        tags_set=dict(sorted(request.tags_set.items())),
        tags_removed=tuple(request.tags_removed),
        card=request.card if request.HasField("card") else None,
        reason=request.reason,
    )


def sign_version(request: registry_service_pb2.SignVersionRequest) -> SignVersion:
    return SignVersion(
        request.request_id, request.model, request.version, request.bundle, request.reason
    )


def list_versions(request: registry_service_pb2.ListVersionsRequest) -> ListVersions:
    return ListVersions(request.model, request.page_size, request.page_token)


def artifact_metadata(metadata: registry_service_pb2.ArtifactMetadata) -> ArtifactMetadata:
    return ArtifactMetadata(metadata.digest, metadata.size_bytes, metadata.format)


def definition_proto(definition: Definition) -> registry_events_pb2.Definition:
    return registry_events_pb2.Definition(
        kind=definition.kind,
        name=definition.name,
        application=definition.application,
        version=definition.version,
        spec_json=definition.spec_json.encode(),
        digest=definition.digest,
    )


def version_proto(version: ModelVersion) -> registry_events_pb2.ModelVersion:
    return registry_events_pb2.ModelVersion(
        model=version.model,
        version=version.version,
        digest=version.digest,
        run_id=version.run_id,
        recipe=version.recipe,
        incident_id=version.incident_id,
        trained=_trained_proto(version.trained),
        gate=_gate_proto(version.gate),
        registered_at_us=version.registered_at_us,
        signature=_signature_proto(version.signature),
        tags=version.description.tags,
        card=version.description.card,
        bundle_digest=version.signing.bundle_digest,
        signer=version.signing.signer,
    )


def get_lineage(request: registry_service_pb2.GetLineageRequest) -> GetLineage:
    return GetLineage(request.kind, request.name, request.page_size, request.page_token)


def lineage_proto(lineage: VersionLineage) -> registry_service_pb2.VersionLineage:
    return registry_service_pb2.VersionLineage(
        model=lineage.model,
        version=lineage.version,
        registered_at_us=lineage.registered_at_us,
        gate_state=STATES[lineage.gate_state],
        sources=[registry_service_pb2.Source(**asdict(each)) for each in lineage.sources],
        aliases=lineage.aliases,
        endpoints=lineage.endpoints,
        read_offsets=[
            registry_service_pb2.ReadOffsets(**asdict(each)) for each in lineage.read_offsets
        ],
    )


def model_proto(model: Model) -> registry_service_pb2.Model:
    return registry_service_pb2.Model(
        name=model.name,
        newest_version=model.newest_version,
        aliases=[alias_proto(each) for each in model.aliases],
    )


def alias_proto(alias: Alias) -> registry_events_pb2.Alias:
    return registry_events_pb2.Alias(
        model=alias.model,
        alias=alias.alias,
        version=alias.version,
        digest=alias.digest,
        generation=alias.generation,
        moved_at_us=alias.moved_at_us,
    )


def rollout_proto(rollout: Rollout) -> registry_events_pb2.Rollout:
    return registry_events_pb2.Rollout(
        endpoint=rollout.endpoint,
        model=rollout.model,
        generation=rollout.generation,
        champion=_served_proto(rollout.champion),
        canary=None if rollout.canary is None else _served_proto(rollout.canary),
        canary_percent=rollout.canary_percent,
        change=rollout.change,
        changed_at_us=rollout.changed_at_us,
        judged=rollout.judged,
        stopped=rollout.stopped,
    )


def _decode(event: ProtoMessage, record: Record) -> None:
    if not record.value:
        raise Invalid("EMPTY", topic=record.topic)
    try:
        event.ParseFromString(record.value)
    except DecodeError as err:
        raise Invalid("DECODE_ERROR", topic=record.topic) from err


def _ce_id(record: Record) -> str:
    ce_id = record.headers.get("ce_id", b"").decode("utf-8", "replace")
    if not ce_id:
        raise Invalid("MISSING_FIELD", column="ce_id", topic=record.topic)
    if len(ce_id) > CE_ID_LENGTH_MAX or not ce_id.isprintable():
        raise Invalid("BAD_ID", column="ce_id", topic=record.topic)
    return ce_id


def _line(text: str) -> str:
    """Text for people, as one bounded line; PostgreSQL takes no NUL."""
    return "".join(letter for letter in text if letter.isprintable())[:EVIDENCE_LENGTH_MAX]


def _trained(trained: trainer_events_pb2.TrainedModel) -> TrainedModel:
    # Whoever reads them by entity reads each once, and would give the model another's in its place.
    if len(set(trained.features)) < len(trained.features):
        raise Invalid("OUT_OF_RANGE", column="trained.features", problem="one is named twice")
    reference = tuple(
        ReferenceHistogram(each.feature, tuple(each.edges), tuple(each.counts), each.effective_rows)
        for each in trained.reference
    )
    return TrainedModel(
        model=trained.model,
        digest=trained.digest,
        features=tuple(trained.features),
        trained_until_us=trained.trained_until_us,
        metrics=dict(trained.metrics),
        champion_version=trained.champion_version,
        reference=reference,
        manifest=dict(trained.manifest),
    )


def _trained_proto(trained: TrainedModel) -> trainer_events_pb2.TrainedModel:
    reference = [
        trainer_events_pb2.ReferenceHistogram(
            feature=each.feature,
            edges=each.edges,
            counts=each.counts,
            effective_rows=each.effective_rows,
        )
        for each in trained.reference
    ]
    return trainer_events_pb2.TrainedModel(
        model=trained.model,
        digest=trained.digest,
        features=trained.features,
        trained_until_us=trained.trained_until_us,
        metrics=trained.metrics,
        champion_version=trained.champion_version,
        reference=reference,
        manifest=trained.manifest,
    )


def _gate_proto(gate: Gate) -> registry_events_pb2.Gate:
    state = STATES[gate.state]
    return registry_events_pb2.Gate(state=state, evidence=gate.evidence, approver=gate.approver)


def _served_proto(served: ServedVersion) -> registry_events_pb2.ServedVersion:
    return registry_events_pb2.ServedVersion(
        version=served.version,
        digest=served.digest,
        features=served.features,
        signature=_signature_proto(served.signature),
    )


def _signature_proto(signature: Signature) -> registry_events_pb2.Signature | None:
    """None for a version of before it was read."""
    if not signature.inputs:
        return None
    return registry_events_pb2.Signature(
        inputs=[_tensor_proto(each) for each in signature.inputs],
        outputs=[_tensor_proto(each) for each in signature.outputs],
    )


def _tensor_proto(tensor: TensorSignature) -> registry_events_pb2.TensorSignature:
    return registry_events_pb2.TensorSignature(
        name=tensor.name, datatype=tensor.datatype, shape=tensor.shape
    )


def _registered(version: ModelVersion) -> list[Message]:
    registered = registry_events_pb2.VersionRegistered(version=version_proto(version))
    subject = f"version/{_name(version)}"
    return [
        _of_version(version.model, subject, version_registered=registered),
        _gate_evaluated(version, f"gate/{_name(version)}"),
    ]


def _gate_evaluated(version: ModelVersion, subject: str) -> Message:
    evaluated = registry_events_pb2.GateEvaluated(
        model=version.model,
        version=version.version,
        digest=version.digest,
        gate=_gate_proto(version.gate),
    )
    return _of_version(version.model, subject, gate_evaluated=evaluated)


def _described(version: ModelVersion) -> Message:
    described = registry_events_pb2.VersionDescribed(
        model=version.model,
        version=version.version,
        description=version.description.changes,
        tags=version.description.tags,
        card=version.description.card,
    )
    subject = f"description/{_name(version)}/{version.description.changes}"
    return _of_version(version.model, subject, version_described=described)


def _signed(version: ModelVersion) -> Message:
    signed = registry_events_pb2.VersionSigned(
        model=version.model,
        version=version.version,
        bundle_digest=version.signing.bundle_digest,
        signer=version.signing.signer,
        gate=_gate_proto(version.gate),
        signing=version.signing.signings,
    )
    subject = f"signing/{_name(version)}/{version.signing.signings}"
    return _of_version(version.model, subject, version_signed=signed)


def _name(version: ModelVersion) -> str:
    return f"{version.model}/{version.version}"


def _of_version(model: str, subject: str, **event: ProtoMessage) -> Message:
    proto = registry_events_pb2.ModelVersionEvent(**event)
    return _message(topics.REGISTRY_MODEL_VERSIONS, model, subject, proto)


def _name_and_subject(definition: Definition) -> tuple[str, str]:
    name = f"{definition.kind}/{definition.name}"
    return name, f"definition/{name}/{definition.version}"


def _tombstone(definition: Definition) -> Message:
    """Compaction leaves nothing of a definition behind it."""
    name, subject = _name_and_subject(definition)
    kind = registry_events_pb2.Definition.DESCRIPTOR.full_name
    headers = _headers(f"{subject}/retracted", kind)
    return Message(topics.REGISTRY_DEFINITIONS.name, name.encode(), None, headers)


def _message(topic: Topic, key: str, subject: str, proto: ProtoMessage) -> Message:
    kind = proto.DESCRIPTOR.full_name
    headers = (*_headers(subject, kind), ("content-type", b"application/protobuf"))
    return Message(topic.name, key.encode(), proto.SerializeToString(), headers)


def _headers(subject: str, kind: str) -> tuple[tuple[str, bytes], ...]:
    """CloudEvents binary mode (Kafka protocol binding 1.0.2)."""
    return (
        ("ce_specversion", b"1.0"),
        ("ce_id", subject.encode()),
        ("ce_source", SOURCE),
        ("ce_type", kind.encode()),
    )

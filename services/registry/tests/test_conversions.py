# SPDX-License-Identifier: Apache-2.0
"""Round trips between protobuf and domain, on the examples of the contracts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from headrace import topics
from headrace.errors import Invalid
from headrace.monitor.v1 import monitor_events_pb2
from headrace.registry.v1 import registry_events_pb2
from headrace.trainer.v1 import trainer_events_pb2
from headrace_kit.kafka import Record
from headrace_kit.testing import a_record
from headrace_registry.adapters import conversions
from headrace_registry.domain.alias import Alias
from headrace_registry.domain.description import Description
from headrace_registry.domain.gate import Gate, GateState
from headrace_registry.domain.rollout import Rollout, ServedVersion
from headrace_registry.domain.signature import Signature, read_signature
from headrace_registry.domain.version import GateOpened, ModelVersion, VersionDescribed
from headrace_registry.testing import (
    DIGEST,
    ONNX,
    a_run,
    a_trained_model,
    a_verdict,
    run_record,
)

GATE = Gate(GateState.PASSED, ("AUC must reach 0.7; measured 0.8.",))
SIGNATURE = read_signature(ONNX)
VERSION = ModelVersion(
    version=3,
    run_id="run-3",
    recipe="delay",
    incident_id="incident-1",
    trained=a_trained_model(),
    gate=GATE,
    registered_at_us=77,
    signature=SIGNATURE,
    description=Description({"team": "risk"}, "# A card", 2),
)
SERVED = ServedVersion(3, DIGEST, ("origin-delay:mean_1h",), SIGNATURE)
ROLLOUT = Rollout("delay", "delay", 4, SERVED, None, 0, "promoted", 88)


def verdict_record(**canary: object) -> Record:
    event = monitor_events_pb2.VerdictReached(
        endpoint="delay", model="delay", canary=monitor_events_pb2.CanaryVerdict(**canary)
    )
    return a_record(event.SerializeToString(), headers={"ce_id": b"verdict-1"})


def test_completed_run_arrives_whole() -> None:
    run = replace(a_run("run-1", champion_auc=0.7), incident_id="incident-1")

    assert run == conversions.run_completed(run_record(run))


def test_nan_metric_arrives() -> None:
    arrived = conversions.run_completed(run_record(a_run(auc=math.nan)))

    assert arrived is not None
    assert math.isnan(arrived.trained.metrics["auc"])


def test_other_events_of_a_run_are_passed_over() -> None:
    event = trainer_events_pb2.TrainingRunEvent(run_id="r", failed=trainer_events_pb2.RunFailed())

    assert conversions.run_completed(a_record(event.SerializeToString())) is None


def test_canary_verdict_arrives_whole() -> None:
    record = verdict_record(
        canary_version=2,
        rollout_generation=2,
        decision=monitor_events_pb2.CANARY_DECISION_PROMOTE,
        evidence="e-value 40 of 40",
    )

    assert a_verdict() == conversions.canary_judged(record)


def test_run_that_names_a_feature_twice_is_refused() -> None:
    record = run_record(a_run(features=("v:a", "v:b", "v:a")))

    with pytest.raises(Invalid, match=r"OUT_OF_RANGE.*trained\.features"):
        conversions.run_completed(record)


def test_other_verdicts_are_passed_over() -> None:
    event = monitor_events_pb2.VerdictReached(drift=monitor_events_pb2.DriftVerdict(drifted=True))

    assert conversions.canary_judged(a_record(event.SerializeToString())) is None


@pytest.mark.parametrize("decision", [0, 7])
def test_unknown_decision_is_refused(decision: int) -> None:
    with pytest.raises(Invalid, match="OUT_OF_RANGE"):
        conversions.canary_judged(verdict_record(decision=decision))


def test_evidence_becomes_one_bounded_line() -> None:
    record = verdict_record(decision=2, evidence="a\x00b\nc" + "d" * 1000)

    judged = conversions.canary_judged(record)
    assert judged is not None
    assert "abc" + "d" * 497 == judged.evidence


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "EMPTY"),
        (b"", "EMPTY"),
        (b"\xff\xff", "DECODE_ERROR"),
        (b"\x0a\x7fx", "DECODE_ERROR"),
    ],
)
def test_what_cannot_be_read_is_refused(value: bytes | None, reason: str) -> None:
    with pytest.raises(Invalid, match=reason):
        conversions.run_completed(a_record(value))
    with pytest.raises(Invalid, match=reason):
        conversions.canary_judged(a_record(value))


@pytest.mark.parametrize(
    ("ce_id", "reason"), [(b"", "MISSING_FIELD"), (b"a\x00", "BAD_ID"), (b"x" * 513, "BAD_ID")]
)
def test_event_without_a_plain_id_is_refused(ce_id: bytes, reason: str) -> None:
    record = replace(run_record(a_run()), headers={"ce_id": ce_id})

    with pytest.raises(Invalid, match=reason):
        conversions.run_completed(record)


def test_version_is_published_with_its_gate_after_it() -> None:
    registered, evaluated = conversions.messages_of(VERSION)

    event = registry_events_pb2.ModelVersionEvent.FromString(registered.value)
    assert conversions.version_proto(VERSION) == event.version_registered.version
    event = registry_events_pb2.ModelVersionEvent.FromString(evaluated.value)
    assert registry_events_pb2.GATE_STATE_PASSED == event.gate_evaluated.gate.state
    assert [b"delay", b"delay"] == [registered.key, evaluated.key]


def test_version_tells_its_signature_and_what_is_said_of_it() -> None:
    proto = conversions.version_proto(VERSION)

    assert [("x", "FP32", [-1, 2])] == [
        (each.name, each.datatype, list(each.shape)) for each in proto.signature.inputs
    ]
    assert ({"team": "risk"}, "# A card") == (dict(proto.tags), proto.card)


def test_version_whose_file_was_never_read_tells_no_signature() -> None:
    unread = replace(VERSION, signature=Signature((), ()))

    assert not conversions.version_proto(unread).HasField("signature")


def test_approval_is_told_as_the_gate_evaluated_again() -> None:
    opened = replace(VERSION, gate=GATE.approved("ann", "looked at it"))

    (message,) = conversions.messages_of(GateOpened(opened))

    gate = registry_events_pb2.ModelVersionEvent.FromString(message.value).gate_evaluated.gate
    assert ("ann", "Approved by ann: looked at it") == (gate.approver, gate.evidence[-1])


def test_rollout_without_a_canary_says_so() -> None:
    (message,) = conversions.messages_of(ROLLOUT)

    rollout = registry_events_pb2.Rollout.FromString(message.value)
    assert not rollout.HasField("canary")
    assert ["origin-delay:mean_1h"] == list(rollout.champion.features)


def test_rollout_with_a_canary_names_it() -> None:
    (message,) = conversions.messages_of(replace(ROLLOUT, canary=SERVED, canary_percent=20))

    rollout = registry_events_pb2.Rollout.FromString(message.value)
    assert (3, 20) == (rollout.canary.version, rollout.canary_percent)


def test_same_event_has_the_same_id_and_another_has_another() -> None:
    alias = Alias("delay", "champion", 3, DIGEST, 4, 99)
    again = replace(VERSION, description=replace(VERSION.description, changes=3))
    described = [VersionDescribed(VERSION), VersionDescribed(again)]
    moves = [alias, replace(alias, generation=5)]
    events = [VERSION, GateOpened(VERSION), *described, *moves, ROLLOUT]
    ids = [dict(m.headers)["ce_id"] for event in events for m in conversions.messages_of(event)]

    assert len(ids) == len(set(ids)) == 8
    assert ids == [
        dict(m.headers)["ce_id"] for event in events for m in conversions.messages_of(event)
    ]


def test_rollouts_are_keyed_by_endpoint() -> None:
    (message,) = conversions.messages_of(ROLLOUT)

    assert (topics.REGISTRY_ROLLOUTS.name, b"delay") == (message.topic, message.key)

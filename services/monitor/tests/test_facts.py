# SPDX-License-Identifier: Apache-2.0
"""What records of the registry say to the monitor, be the registry newer or not."""

import pytest

from headrace import topics
from headrace.registry.v1 import registry_events_pb2 as registry_pb
from headrace_kit.kafka import Record
from headrace_monitor.adapters.conversions import facts
from headrace_monitor.domain.incident import GateState
from headrace_monitor.handlers.facts import GateEvaluated


def told(event):
    topic = topics.REGISTRY_MODEL_VERSIONS.name
    return facts(Record(topic, 0, 0, b"fraud", event.SerializeToString(), {}, 0))


@pytest.mark.parametrize(
    ("state", "found"),
    [
        (registry_pb.GATE_STATE_PASSED, GateState.PASSED),
        (registry_pb.GATE_STATE_FAILED, GateState.FAILED),
        (registry_pb.GATE_STATE_RETRACTED, GateState.FAILED),
        (registry_pb.GATE_STATE_AWAITS_APPROVAL, GateState.UNKNOWN),
        (registry_pb.GATE_STATE_AWAITS_SIGNATURE, GateState.UNKNOWN),
        # Of a registry to come.
        (99, GateState.UNKNOWN),
    ],
)
def test_gate_that_waits_for_somebody_is_not_decided(state, found):
    event = registry_pb.ModelVersionEvent()
    event.gate_evaluated.model, event.gate_evaluated.version = "fraud", 1
    event.gate_evaluated.gate.state = state

    assert [GateEvaluated("fraud", 1, found)] == told(event)


def test_version_is_known_before_its_gate_is_decided():
    event = registry_pb.ModelVersionEvent()
    version = event.version_registered.version
    version.model, version.version = "fraud", 1
    version.gate.state = registry_pb.GATE_STATE_AWAITS_APPROVAL

    (known,) = told(event)
    assert ("fraud", 1) == (known.model, known.version)

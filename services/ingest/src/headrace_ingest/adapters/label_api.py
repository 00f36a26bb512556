# SPDX-License-Identifier: Apache-2.0
"""LabelService, and its protos to the domain and back."""

from __future__ import annotations

from typing import Any

import grpc

from headrace.ingest.v1 import label_service_pb2 as pb
from headrace.ingest.v1 import label_service_pb2_grpc
from headrace_ingest.domain.labels import FoundLabel, LabelState, Target
from headrace_ingest.handlers.look_up_labels import LookUpLabels, look_up_labels
from headrace_ingest.ports import ContractBook, LabelBook, RecordRows
from headrace_kit.clock import Clock

STATES = {
    LabelState.PENDING: pb.LABEL_STATE_PENDING,
    LabelState.KNOWN: pb.LABEL_STATE_KNOWN,
    LabelState.ABSENT: pb.LABEL_STATE_ABSENT,
}


class LabelApi(label_service_pb2_grpc.LabelServiceServicer):
    """Answers from the archive."""

    def __init__(
        self, *, labels: LabelBook, contracts: ContractBook, records: RecordRows, clock: Clock
    ) -> None:
        self._labels, self._contracts, self._records = labels, contracts, records
        self._clock = clock

    def LookUpLabels(self, request: Any, context: grpc.ServicerContext) -> Any:
        command = LookUpLabels(
            request.label,
            [Target(target.key, target.as_of_us) for target in request.targets],
            request.known_until_us or self._clock.now_us(),
            request.with_weak,
        )
        found = look_up_labels(
            command, labels=self._labels, contracts=self._contracts, records=self._records
        )
        return pb.LookUpLabelsResponse(labels=map(_to_found, found))


def _to_found(found: FoundLabel) -> pb.FoundLabel:
    return pb.FoundLabel(
        state=STATES[found.state],
        value=None if found.value is None else _to_value(found.value),
        origin=found.origin,
        event_id=found.event_id,
        event_time_us=found.event_time_us,
        known_time_us=found.known_time_us,
    )


def _to_value(value: object) -> pb.LabelValue:
    match value:
        case bool():
            return pb.LabelValue(flag=value)
        case int():
            return pb.LabelValue(whole=value)
        case float():
            return pb.LabelValue(number=value)
        case _:
            return pb.LabelValue(text=str(value))

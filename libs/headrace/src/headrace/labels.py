# SPDX-License-Identifier: Apache-2.0
"""The client's way to labels: what is true of entities and predictions."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from headrace.ingest.v1 import label_service_pb2 as pb
from headrace.ingest.v1 import label_service_pb2_grpc
from headrace.rpc import call

READ_TIMEOUT_S = 30.0


class Labels:
    """LabelService of an ingest process."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = label_service_pb2_grpc.LabelServiceStub(channel)

    def look_up(
        self,
        label: str,
        targets: Sequence[tuple[str, int]],
        *,
        known_until_us: int = 0,
        with_weak: bool = False,
    ) -> list[pb.FoundLabel]:
        """The label of each (key, as_of_us), in order, as known then or now.

        Raises NotFound LABEL_UNKNOWN, Busy BATCH_TOO_LARGE for more than 1,000 targets.
        """
        request = pb.LookUpLabelsRequest(
            label=label,
            targets=[pb.LabelTarget(key=key, as_of_us=as_of_us) for key, as_of_us in targets],
            known_until_us=known_until_us,
            with_weak=with_weak,
        )
        answer = call(self._stub.LookUpLabels, request, timeout_s=READ_TIMEOUT_S, retries_max=2)
        return list(answer.labels)

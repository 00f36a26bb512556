# SPDX-License-Identifier: Apache-2.0
"""Requests that came over Kafka, as calls of the hot door whose answers are kept for their writer.

Who may publish is Kafka's to say: a record asks as everybody. Its deadline is the request's own
`timeout`, counted from the broker's time of the record.
"""

from __future__ import annotations

import math
import threading
import time
from typing import Any

from headrace.errors import HeadraceError, Invalid
from headrace_inference.domain.claim import Claim
from headrace_inference.domain.prediction import Prediction
from headrace_inference.domain.request import check_request_id
from headrace_kit.auth import EVERYBODY
from headrace_kit.error_status import retry_after_s
from headrace_kit.hot_calls import Answer, HotCall
from headrace_kit.kafka import Partition

# Added to the priority of what came over Kafka: no caller's is as large.
BEHIND_CALLERS = 1 << 64


class RecordCall(HotCall):
    """One request of a topic: in the end it has a prediction, its place among the requests of that
    one, or an error.
    """

    __slots__ = (
        "claim",
        "claiming",
        "endpoint",
        "entity_key",
        "error",
        "heard",
        "id",
        "offset",
        "partition",
        "place",
        "prediction",
        "refused_bytes",
        "topic_id",
    )

    def __init__(
        self,
        payload: bytes,
        *,
        endpoint: str,
        partition: Partition,
        offset: int,
        entity_key: str,
        arrived_s: float,
        topic_id: str = "",
        key: int = 0,
    ) -> None:
        super().__init__(
            payload,
            caller=EVERYBODY,
            arrived_s=arrived_s,
            deadline_s=math.inf,
            reply=_keep,
            key=key,
        )
        self.endpoint, self.partition, self.offset = endpoint, partition, offset
        self.entity_key, self.topic_id = entity_key, topic_id
        # What names the payload, where that did not fit the record.
        self.claim: Claim | None = None
        # The same whenever it is read, for one that names none; another's in a topic made again.
        self.id = f"{topic_id}:{partition.number}:{offset}"
        self.prediction: Prediction | None = None
        self.place = 0
        # The record that claims its answer, once that is kept.
        self.claiming: Any = None
        # The topic of the answers took no record of so many bytes of it alone.
        self.refused_bytes = math.inf
        self.error: Exception | None = None
        # Who waits for it on another thread.
        self.heard: threading.Semaphore | None = None

    @property
    def answered(self) -> bool:
        return self.prediction is not None or self.error is not None

    @property
    def comes_again(self) -> bool:
        """Whether its error is our own state: a model on its way too, while it has time."""
        if isinstance(self.error, HeadraceError) and self.error.reason == "DEADLINE_UNMET":
            return time.monotonic() < self.deadline_s
        return again(self.error)

    def name(self, id_: str, endpoint: str) -> None:
        """Note what the request calls itself; raises Invalid BAD_REQUEST for another endpoint's,
        BAD_ID.
        """
        check_request_id(id_)
        self.id = id_ or self.id
        if endpoint != self.endpoint:
            raise Invalid("BAD_REQUEST", field="model_name", expected=self.endpoint)

    def answer_by(self, prediction: Prediction, place: int) -> None:
        self.place, self.prediction = place, prediction
        self._tell()

    def _tell(self) -> None:
        if self.heard is not None:
            self.heard.release()


def _keep(call: HotCall, answer: Answer | Exception) -> None:
    if isinstance(call, RecordCall) and isinstance(answer, Exception) and not call.answered:
        call.error = answer
        call._tell()


def again(error: Exception | None) -> bool:
    """Whether it is our own state that stands in the way, and the same request may do better."""
    if not isinstance(error, HeadraceError) or retry_after_s(error) is None:
        return False
    return error.reason not in FINAL


# Of the reasons that callers are told to wait for, those that are a record's own fate.
FINAL = ("DEADLINE_UNMET", "CLAIMS_FULL")

# SPDX-License-Identifier: Apache-2.0
"""Tells in the prediction log which requests a version said NaN or infinity to.

By that the monitor takes a canary back. A few suffice for it, so that little is kept while Kafka is
away, and what is more is counted alone. No caller waits: a thread writes.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Sequence

import structlog

from headrace import topics
from headrace.errors import HeadraceError
from headrace_inference.adapters import conversions
from headrace_inference.adapters.kafka_prediction_log import ce_headers
from headrace_inference.domain.prediction import Failure
from headrace_kit.kafka import Message, Publisher
from headrace_kit.part_thread import ThreadPart
from headrace_kit.telemetry import counter

WRITE_INTERVAL_S = 0.5
# Of one endpoint.
WRITE_S_MAX = 10.0
# In memory, and of one endpoint among them.
WAITING_MAX, WAITING_OF_ENDPOINT_MAX = 1_000, 50

log = structlog.get_logger(__name__)
shadow_failures = counter("inference", "shadow_failure_total", "Shadow scores left out of the log.")
nonfinite = counter(
    "inference", "nonfinite_total", "Requests that a version said NaN to.", "endpoint", "version"
)


class KafkaFailureLog(ThreadPart):
    """Hears of every failure."""

    def __init__(self, publisher: Publisher) -> None:
        super().__init__("failure-log")
        self._publisher = publisher
        self._changing = threading.Lock()
        self._waiting: deque[Failure] = deque()

    def note(self, failure: Failure) -> None:
        if failure.shadow:
            shadow_failures.inc()
        if failure.reason == "MODEL_NONFINITE":
            nonfinite.labels(failure.endpoint, failure.served.version).inc()
            self._keep([failure])

    def stop(self, timeout_s: float) -> None:
        super().stop(timeout_s)
        if not self._thread.running:
            self.write(until_s=time.monotonic() + timeout_s)

    def _run(self) -> None:
        while not self._rested(WRITE_INTERVAL_S):
            self._thread.tick()
            self.write()

    def write(self, *, until_s: float = math.inf) -> None:
        """What waits; an endpoint whose topic is in trouble keeps others' no longer than once."""
        with self._changing:
            waiting, self._waiting = list(self._waiting), deque()
        for endpoint in dict.fromkeys(each.endpoint for each in waiting):
            self._thread.tick()  # each may take its whole time
            own = [each for each in waiting if each.endpoint == endpoint]
            wait_s = min(WRITE_S_MAX, max(0.0, until_s - time.monotonic()))
            try:
                self._publisher.publish([_message(each) for each in own], timeout_s=wait_s)
            except HeadraceError as err:
                log.warning("failures_wait", endpoint=endpoint, rows=len(own), error=str(err))
                if err.retry_delay_s is not None:
                    self._keep(own)

    def _keep(self, failures: Sequence[Failure]) -> None:
        with self._changing:
            for failure in failures:
                own = sum(each.endpoint == failure.endpoint for each in self._waiting)
                if own < WAITING_OF_ENDPOINT_MAX and len(self._waiting) < WAITING_MAX:
                    self._waiting.append(failure)


def _message(failure: Failure) -> Message:
    topic = topics.INFERENCE_PREDICTIONS.of(failure.endpoint)
    value = conversions.nonfinite_event(failure).SerializeToString()
    # A retry that is answered has the same prediction id.
    return Message(topic, None, value, ce_headers(f"nonfinite:{failure.prediction_id}"))

# SPDX-License-Identifier: Apache-2.0
"""What is counted of requests: metrics and Triton's statistics, once for each run.

A request over Kafka may have waited in its topic for days, by no fault of what is measured here:
its time begins with its run, and `kafka_request_seconds` tells the whole.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from headrace_inference.adapters.grpc_api import NO_ENDPOINT, refusals
from headrace_inference.adapters.record_calls import RecordCall
from headrace_inference.domain.prediction import Prediction
from headrace_inference.domain.statistics import Execution, Statistics
from headrace_kit.hot_calls import HotCall


class RequestCounters:
    """Counters of the hot door."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics

    def answered(self, calls: Sequence[HotCall], done: Prediction, began_s: float) -> None:
        """Requests that shared a run; `began_s` by time.monotonic."""
        ended_s = time.monotonic()
        run_ns = int((ended_s - began_s) * 1e9)
        queues_ns = [
            0 if isinstance(call, RecordCall) else int((began_s - call.arrived_s) * 1e9)
            for call in calls
        ]
        self._statistics.record(
            Execution(
                endpoint=done.endpoint,
                version=done.served.version,
                rows=done.rows,
                totals_ns=[queue_ns + run_ns for queue_ns in queues_ns],
                queues_ns=queues_ns,
                compute_input_ns=done.read_ns,
                compute_infer_ns=done.run_ns,
                compute_output_ns=max(0, run_ns - done.read_ns - done.run_ns),
                ended_at_us=done.served_at_us,
            )
        )

    def unread(self, reason: str) -> None:
        """A request of which no endpoint is known."""
        refusals.labels(NO_ENDPOINT, reason).inc()

    def refused(self, call: HotCall, endpoint: str, version: int, reason: str) -> None:
        refusals.labels(endpoint, reason).inc()
        waited_s = 0.0 if isinstance(call, RecordCall) else time.monotonic() - call.arrived_s
        duration_ns = int(waited_s * 1e9)
        self._statistics.record_failure(endpoint, version, duration_ns=duration_ns)

# SPDX-License-Identifier: Apache-2.0
"""What was answered, by endpoint, and what requests waited and took, by endpoint and version.

Counted with the statistics, a run at a time, and made when they are asked for: to observe each
request by itself would cost a tenth of a small one. The histograms' labels are bounded as the
statistics are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from headrace_inference.domain.statistics import BOUNDS_NS, Answered, Latency, Statistics
from headrace_kit.telemetry import Counted, CountedCounter, CountedHistogram

TOTAL = "From the arrival of a request that was answered to its answer."
QUEUE = "From the arrival of a request that was answered until its run began."


def tell_answered(statistics: Statistics, counter: Callable[..., object] = CountedCounter) -> None:
    def tell(name: str, means: str, count: Callable[[Answered], int]) -> None:
        def read() -> list[tuple[tuple[str], int]]:
            return [((endpoint,), count(each)) for endpoint, each in statistics.answered().items()]

        counter("inference", name, means, ("endpoint",), read=read)

    tell("request_success_total", "Requests answered.", lambda each: each.requests)
    tell("rows_total", "Rows answered.", lambda each: each.rows)
    tell("runs_total", "Runs that answered them.", lambda each: each.runs)


def tell_latencies(
    statistics: Statistics, histogram: Callable[..., object] = CountedHistogram
) -> None:
    def tell(name: str, means: str, count: Callable[[Latency], Counted]) -> None:
        def read() -> Iterator[Counted]:
            return map(count, statistics.latencies())

        labels, bounds_s = ("endpoint", "version"), [bound_ns / 1e9 for bound_ns in BOUNDS_NS]
        histogram("inference", name, means, labels, bounds_s=bounds_s, read=read)

    tell("request_seconds", TOTAL, _total)
    tell("request_queue_seconds", QUEUE, _queue)


def _total(latency: Latency) -> Counted:
    return Counted(_labels(latency), latency.total_counts, latency.total_ns / 1e9)


def _queue(latency: Latency) -> Counted:
    return Counted(_labels(latency), latency.queue_counts, latency.queue_ns / 1e9)


def _labels(latency: Latency) -> tuple[str, str]:
    return latency.endpoint, str(latency.version)

# SPDX-License-Identifier: Apache-2.0
"""Logs as one JSON object per line on stderr, metrics named `headrace_<service>_<noun>_<unit>`."""

from __future__ import annotations

import logging
import sys
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import accumulate
from typing import Any, NamedTuple

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)


def configure_logging(service: str, level: str, *, worker: int | None = None) -> None:
    """Send structlog and the standard library's logging to stderr as JSON lines.

    Each names the service, and its worker where there are several.
    """
    names = {"service": service} if worker is None else {"service": service, "worker": worker}
    number = logging.getLevelNamesMapping()[level.upper()]

    def name_service(_: object, __: str, event: Any) -> Any:
        return {**names, **event}

    shared: list[Any] = [
        name_service,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    structlog.configure(
        processors=[
            *shared,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(default=str),
            ],
        )
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)


@cache
def counter(service: str, name: str, means: str, *labels: str) -> Counter:
    """`headrace_<service>_<name>`, made once; `name` ends in `_total`."""
    return Counter(f"headrace_{service}_{name}", means, labels)


@cache
def gauge(service: str, name: str, means: str, *labels: str) -> Gauge:
    """`headrace_<service>_<name>`, made once; `name` ends in its unit."""
    return Gauge(f"headrace_{service}_{name}", means, labels)


@cache
def histogram(service: str, name: str, means: str, *labels: str) -> Histogram:
    """`headrace_<service>_<name>`, made once; `name` ends in `_seconds`."""
    return Histogram(f"headrace_{service}_{name}", means, labels, buckets=SECONDS_BUCKETS)


class Counted(NamedTuple):
    """A histogram that was counted elsewhere: of each bucket, the last one without a bound."""

    labels: Sequence[str]
    counts: Sequence[int]
    sum_s: float


class CountedHistogram(Collector):
    """`headrace_<service>_<name>`, read when it is asked for: for what is counted many at once."""

    def __init__(
        self,
        service: str,
        name: str,
        means: str,
        labels: Sequence[str],
        *,
        bounds_s: Sequence[float],
        read: Callable[[], Iterable[Counted]],
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._name, self._means, self._labels = f"headrace_{service}_{name}", means, labels
        self._bounds, self._read = [*map(str, bounds_s), "+Inf"], read
        registry.register(self)

    def collect(self) -> Iterable[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._means, labels=self._labels)
        for counted in self._read():
            buckets = list(zip(self._bounds, accumulate(counted.counts), strict=True))
            family.add_metric(counted.labels, buckets, counted.sum_s)
        yield family


class CountedCounter(Collector):
    """`headrace_<service>_<name>`, read when it is asked for, as CountedHistogram: `read` gives the
    values of its labels with what was counted."""

    def __init__(
        self,
        service: str,
        name: str,
        means: str,
        labels: Sequence[str],
        *,
        read: Callable[[], Iterable[tuple[Sequence[str], float]]],
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._name, self._means, self._labels = f"headrace_{service}_{name}", means, labels
        self._read = read
        registry.register(self)

    def collect(self) -> Iterable[CounterMetricFamily]:
        family = CounterMetricFamily(self._name, self._means, labels=self._labels)
        for labels, count in self._read():
            family.add_metric(labels, count)
        yield family


class QuickHistogram:
    """As `histogram`, without labels, in a quarter of the time: for what every request waits for.

    That one takes a lock for its sum and one for its bucket, and looks at each bucket before it.
    """

    def __init__(
        self, service: str, name: str, means: str, *, registry: CollectorRegistry = REGISTRY
    ) -> None:
        self._lock = threading.Lock()
        self._counts, self._sum_s = [0] * (len(SECONDS_BUCKETS) + 1), 0.0
        bounds_s, read = SECONDS_BUCKETS, self._read
        CountedHistogram(service, name, means, (), bounds_s=bounds_s, read=read, registry=registry)

    def observe(self, seconds: float) -> None:
        bucket = bisect_left(SECONDS_BUCKETS, seconds)
        with self._lock:
            self._counts[bucket] += 1
            self._sum_s += seconds

    def _read(self) -> Iterable[Counted]:
        with self._lock:
            yield Counted((), tuple(self._counts), self._sum_s)

# SPDX-License-Identifier: Apache-2.0
"""What each version has done, counted as Triton's statistics extension counts it.

The path that runs models calls `record` once a run, however many requests shared it, and
`record_failure` for a request that got no answer. A version is counted under its endpoint.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace

# Each holds at most one entry for each size of a batch; the version that ran least lately goes.
VERSIONS_MAX = 1_000
# From a tenth of a millisecond to the longest deadline.
BOUNDS_NS = tuple(step * 10**power for power in range(5, 10) for step in (1, 2, 5))


@dataclass(slots=True)
class Execution:
    """One run: requests whose `rows` ran together. Made with each, so not frozen, which costs more
    than twice as much.

    `totals_ns` and `queues_ns` are of each request, the others of the run.
    """

    endpoint: str
    version: int
    rows: int
    totals_ns: Sequence[int]
    queues_ns: Sequence[int]
    compute_input_ns: int
    compute_infer_ns: int
    compute_output_ns: int
    ended_at_us: int


@dataclass(slots=True)
class Duration:
    """How often, and how long in all."""

    count: int = 0
    ns: int = 0


@dataclass(slots=True)
class Answered:
    """Of an endpoint, whichever version answered."""

    requests: int = 0
    rows: int = 0
    runs: int = 0


@dataclass(slots=True)
class Distribution:
    """How many were in each bucket; its upper bound belongs to it, the last one has none."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_NS) + 1))

    def add(self, each_ns: Sequence[int]) -> None:
        counts = self.counts
        for ns in each_ns:
            counts[bisect_left(BOUNDS_NS, ns)] += 1


@dataclass(frozen=True, slots=True)
class Latency:
    """A version's answered requests: from their arrival, and until their run began."""

    endpoint: str
    version: int
    total_counts: tuple[int, ...]
    total_ns: int
    queue_counts: tuple[int, ...]
    queue_ns: int


@dataclass(slots=True)
class Compute:
    """Reading the inputs, running the model, making the outputs: as often as each other."""

    count: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0

    @property
    def input(self) -> Duration:
        return Duration(self.count, self.input_ns)

    @property
    def infer(self) -> Duration:
        return Duration(self.count, self.infer_ns)

    @property
    def output(self) -> Duration:
        return Duration(self.count, self.output_ns)

    def add(self, done: Execution, times: int) -> None:
        self.count += times
        self.input_ns += times * done.compute_input_ns
        self.infer_ns += times * done.compute_infer_ns
        self.output_ns += times * done.compute_output_ns


@dataclass(slots=True)
class VersionStatistics:
    """Sums since the process began. `compute` counts requests, each charged with its whole run."""

    last_inference_us: int = 0
    rows: int = 0
    executions: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    totals: Distribution = field(default_factory=Distribution)
    queues: Distribution = field(default_factory=Distribution)
    compute: Compute = field(default_factory=Compute)
    compute_by_batch_rows: dict[int, Compute] = field(default_factory=dict)

    def add(self, done: Execution) -> None:
        """Done with each run: each call of a function in it is a hundredth of a lone one."""
        if done.ended_at_us > self.last_inference_us:
            self.last_inference_us = done.ended_at_us
        self.rows += done.rows
        self.executions += 1
        requests = len(done.totals_ns)
        success, queue = self.success, self.queue
        success.count += requests
        success.ns += sum(done.totals_ns)
        queue.count += requests
        queue.ns += sum(done.queues_ns)
        self.totals.add(done.totals_ns)
        self.queues.add(done.queues_ns)
        self.compute.add(done, requests)
        by_rows = self.compute_by_batch_rows.get(done.rows)
        if by_rows is None:
            by_rows = self.compute_by_batch_rows[done.rows] = Compute()
        by_rows.add(done, 1)


class Statistics:
    """The statistics of every version that ran, but for the oldest beyond VERSIONS_MAX; what an
    endpoint's answered is kept, for it never falls."""

    def __init__(self) -> None:
        self._by_version: OrderedDict[tuple[str, int], VersionStatistics] = OrderedDict()
        self._answered: dict[str, Answered] = {}
        self._lock = threading.Lock()

    def record(self, done: Execution) -> None:
        with self._lock:
            self._of(done.endpoint, done.version).add(done)
            answered = self._answered.get(done.endpoint)
            if answered is None:
                answered = self._answered[done.endpoint] = Answered()
            answered.requests += len(done.totals_ns)
            answered.rows += done.rows
            answered.runs += 1

    def record_failure(self, endpoint: str, version: int, *, duration_ns: int) -> None:
        with self._lock:
            fail = self._of(endpoint, version).fail
            fail.count += 1
            fail.ns += duration_ns

    def read(self, endpoint: str, version: int) -> VersionStatistics:
        """A copy; zeros for a version that has not run."""
        with self._lock:
            return deepcopy(self._by_version.get((endpoint, version), VersionStatistics()))

    def read_all(self, endpoint: str = "") -> dict[tuple[str, int], VersionStatistics]:
        """Copies, by endpoint and version; of one endpoint where it is named."""
        with self._lock:
            return {
                key: deepcopy(done)
                for key, done in self._by_version.items()
                if endpoint in ("", key[0])
            }

    def answered(self) -> dict[str, Answered]:
        """Copies, by endpoint."""
        with self._lock:
            return {endpoint: replace(done) for endpoint, done in self._answered.items()}

    def latencies(self) -> list[Latency]:
        """Of every version that answered."""
        with self._lock:
            return [
                Latency(
                    endpoint=endpoint,
                    version=version,
                    total_counts=tuple(done.totals.counts),
                    total_ns=done.success.ns,
                    queue_counts=tuple(done.queues.counts),
                    queue_ns=done.queue.ns,
                )
                for (endpoint, version), done in self._by_version.items()
                if done.executions
            ]

    def _of(self, endpoint: str, version: int) -> VersionStatistics:
        key = (endpoint, version)
        found = self._by_version.get(key)
        if found is None:
            found = self._by_version[key] = VersionStatistics()
        self._by_version.move_to_end(key)
        if len(self._by_version) > VERSIONS_MAX:
            self._by_version.popitem(last=False)
        return found

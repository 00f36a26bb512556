# SPDX-License-Identifier: Apache-2.0
"""Statistics of all workers of a service, by whichever is asked.

Each tells its own at its admin door, on a socket in its folder; all are asked at the same time, so
that those who say nothing are waited for together, and by all callers together: who comes while
they are asked shares the next round, which begins after what the caller did before. One that says
nothing just now, as it is started again, is left out: what it counted before is gone with it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace_inference.adapters import triton_conversions
from headrace_inference.domain.statistics import Statistics
from headrace_kit.admin_http import Page
from headrace_kit.worker_process import ask_worker

STATISTICS = "/statistics"
DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


def statistics_page(statistics: Statistics, query: Mapping[str, str]) -> Page:
    """Of one endpoint, or without a name of all that were counted here."""
    name = query.get("name", "")
    told = oip.ModelStatisticsResponse(
        model_stats=[
            triton_conversions.model_statistics(endpoint, version, done)
            for (endpoint, version), done in statistics.read_all(name).items()
        ]
    )
    return Page(told.SerializeToString(), "application/x-protobuf")


class OtherWorkers:
    """The workers that have these sockets."""

    def __init__(self, admin_sockets: Sequence[Path]) -> None:
        self._admin_sockets = admin_sockets
        # Their threads are begun with the first question.
        self._asking = ThreadPoolExecutor(max(1, len(admin_sockets)), thread_name_prefix="workers")
        self._rounds = ThreadPoolExecutor(1, thread_name_prefix="workers-round")
        self._lock = threading.Lock()
        self._names: set[str] = set()
        self._next: Future[list[oip.ModelStatistics]] | None = None

    def statistics(self, name: str) -> list[oip.ModelStatistics]:
        """As `statistics_page` of each tells them; at most the end of a round and one more."""
        with self._lock:
            self._names.add(name)
            if self._next is None:
                self._next = self._rounds.submit(self._ask)
            told = self._next
        return [each for each in told.result() if name in ("", each.name)]

    def _ask(self) -> list[oip.ModelStatistics]:
        """Of all who came until now."""
        with self._lock:
            names, self._names, self._next = self._names, set(), None
        name = names.pop() if len(names) == 1 else ""
        path = f"{STATISTICS}?{urlencode({'name': name})}"
        answers = self._asking.map(partial(ask_worker, path=path), self._admin_sockets)
        return [
            each
            for answer in answers
            if answer is not None
            for each in oip.ModelStatisticsResponse.FromString(answer).model_stats
        ]


def added(own: oip.ModelStatistics, others: Iterable[oip.ModelStatistics]) -> oip.ModelStatistics:
    """The sums over the workers, of one version."""
    for other in others:
        if (other.name, other.version) == (own.name, own.version):
            _add(own, other)
    return own


def _add(own: oip.ModelStatistics, other: oip.ModelStatistics) -> None:
    own.last_inference = max(own.last_inference, other.last_inference)
    own.inference_count += other.inference_count
    own.execution_count += other.execution_count
    _add_durations(own.inference_stats, other.inference_stats)
    by_size = {each.batch_size: each for each in own.batch_stats}
    for batch in other.batch_stats:
        if batch.batch_size in by_size:
            _add_durations(by_size[batch.batch_size], batch)
        else:
            own.batch_stats.add().CopyFrom(batch)
    ordered = sorted(own.batch_stats, key=lambda batch: batch.batch_size)
    own.ClearField("batch_stats")
    own.batch_stats.extend(ordered)


def _add_durations(
    own: oip.InferStatistics | oip.InferBatchStatistics,
    other: oip.InferStatistics | oip.InferBatchStatistics,
) -> None:
    for name in DURATIONS:
        if name in own.DESCRIPTOR.fields_by_name:
            duration, more = getattr(own, name), getattr(other, name)
            duration.count += more.count
            duration.ns += more.ns

# SPDX-License-Identifier: Apache-2.0
"""When gathered rows go into the archive, and how: few large commits, each while the next records
are on their way to Kafka."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import polars as pl

from headrace_ingest.domain.judging import empty_rows
from headrace_ingest.handlers.streams_in_work import StreamInWork
from headrace_ingest.metrics import count_stored
from headrace_ingest.ports.archive import Archive
from headrace_kit.failpoints import failpoint

COMMIT_SHARE = 0.05
REST_S_MAX = 5.0
# How long storing may keep new records waiting, checked between the commits of two streams.
STORE_S_MAX = 0.05


@dataclass(frozen=True, slots=True)
class Pace:
    """When gathered rows are stored: once the input is quiet, or after twice the interval.

    Storing may take a twentieth of the time: a slow archive gets fewer and larger commits.
    """

    commit_interval_s: float = 0.5
    commit_rows_max: int = 100_000
    dedup_ids_max: int = 250_000


@dataclass(frozen=True, slots=True)
class Storer:
    """Stores what streams have gathered, at this pace."""

    archive: Archive
    pace: Pace
    monotonic_s: Callable[[], float]

    def store_due(self, streams: Iterable[StreamInWork], *, quiet: bool) -> None:
        """Store what is due, oldest first, for a bounded time: new records wait meanwhile."""
        begin_s = self.monotonic_s()
        waiting = [(each.since_s, each.name, each) for each in streams if each.since_s is not None]
        for since_s, _, stream in sorted(waiting, key=lambda each: each[:2]):
            if self._due(stream, begin_s - since_s, begin_s - stream.stored_s, quiet=quiet):
                self.store(stream)
            if self.monotonic_s() - begin_s > STORE_S_MAX:
                return

    def settle(self, streams: Iterable[StreamInWork]) -> None:
        """Ask again for the commits that are in doubt: for the same ones, not for larger ones."""
        for stream in streams:
            if stream.in_doubt:
                self.store(stream)

    def store(self, stream: StreamInWork) -> None:
        """One commit of the archive: the gathered rows and the accounts that they change."""
        begin_s = self.monotonic_s()
        before = {number: shard.stored for number, shard in stream.shards.items()}
        after = {number: shard.account for number, shard in stream.shards.items()}
        if before != after:
            rows = pl.concat(stream.rows) if stream.rows else empty_rows(stream.contract.stream)
            stream.in_doubt = True
            self.archive.append(stream.contract, rows, before, after)
            stream.in_doubt = False
            failpoint("ingest.sink.committed")
            for shard in stream.shards.values():
                count_stored(stream.name, shard.stored, shard.account)
                shard.stored = shard.account
            stream.stored_s = self.monotonic_s()
            stream.commit_s = stream.stored_s - begin_s
        stream.rows, stream.since_s = [], None

    def _due(self, stream: StreamInWork, waited_s: float, rested_s: float, *, quiet: bool) -> bool:
        rest_s = min(stream.commit_s / COMMIT_SHARE, REST_S_MAX)
        interval_s = max(self.pace.commit_interval_s, rest_s)
        full = sum(rows.height for rows in stream.rows) >= self.pace.commit_rows_max
        return full or (quiet and rested_s >= interval_s) or waited_s >= 2 * interval_s

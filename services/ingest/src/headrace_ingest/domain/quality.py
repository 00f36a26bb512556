# SPDX-License-Identifier: Apache-2.0
"""Figures of a stream's records over a minute of processing, gathered by columns.

Distinct values are counted by the k smallest hashes (Bar-Yossef et al., 2002): exact below k,
within about 6 % above. Of columns with personal data no value is told.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headrace_ingest.domain.batch import Batch
from headrace_ingest.domain.contract import Contract

HASHES_MAX = 256
MINUTE_US = 60_000_000
TIMES = ("_known_time_us", "_event_time_us")
HASH_RANGE = 2.0**64
# So many rows are measured together: for few, a column costs as much as for these.
MEASURED_ROWS_MIN = 4_096
# Or what takes so much memory.
UNMEASURED_BYTES_MAX = 16 << 20


@dataclass(frozen=True, slots=True)
class ColumnQuality:
    """Of the stored records: nulls, about how many distinct values, and their range."""

    nulls: int
    distinct: int
    least: float | None
    greatest: float | None


@dataclass(frozen=True, slots=True)
class StreamQuality:
    """`minute_us` is the begin of the minute; `offsets` the records: partition to [first, end).

    `lateness_us_*`: from event time to known time.
    """

    stream: str
    version: int
    minute_us: int
    stored: int
    late: int
    repeats: int
    refused_by_reason: Mapping[str, int]
    lateness_us_mean: float
    lateness_us_max: int
    offsets: Mapping[int, tuple[int, int]]
    columns: Mapping[str, ColumnQuality]

    @property
    def received(self) -> int:
        return self.stored + self.repeats + sum(self.refused_by_reason.values())

    @property
    def event_id(self) -> str:
        """The same for the same records in the same minute."""
        places = ",".join(f"{n}:{first}-{end}" for n, (first, end) in sorted(self.offsets.items()))
        cause = f"{self.stream}|{self.version}|{self.minute_us}|{places}"
        return hashlib.sha256(cause.encode()).hexdigest()[:32]


@dataclass(slots=True)
class _Column:
    nulls: int = 0
    present: int = 0
    least: float | None = None
    greatest: float | None = None
    hashes: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))

    def distinct(self) -> int:
        if len(self.hashes) < HASHES_MAX:
            return len(self.hashes)
        estimate = round((HASHES_MAX - 1) / (float(self.hashes[-1]) / HASH_RANGE))
        return min(estimate, self.present)

    def take_hashes(self, values: pl.Series) -> None:
        hashes = values.hash().to_numpy()
        if len(self.hashes) == HASHES_MAX:  # most are above what is kept already
            hashes = hashes[hashes < self.hashes[-1]]
        if len(hashes):
            self.hashes = np.union1d(self.hashes, hashes)[:HASHES_MAX]


class Minute:
    """The figures of one stream in the making."""

    def __init__(self, contract: Contract, minute_us: int) -> None:
        self.contract, self.minute_us = contract, minute_us
        self._stored = self._late = self._repeats = self._lateness_max = self._lateness_sum = 0
        self._refused: Counter[str] = Counter()
        self._offsets: dict[int, tuple[int, int]] = {}
        self._columns = {name: _Column() for name in contract.stream.columns}
        self._unmeasured: list[pl.DataFrame] = []
        self._unmeasured_bytes = 0

    def take(self, batch: Batch, firsts: Mapping[int, int]) -> None:
        """`firsts`: the first offset of the batch by partition."""
        for number, addition in batch.additions.items():
            first, _ = self._offsets.get(number, (firsts[number], 0))
            self._offsets[number] = first, addition.offset
            self._stored += addition.stored
            self._late += addition.late
            self._repeats += addition.repeats
            self._refused.update(addition.dead_by_reason)
        if batch.stored.height:
            rows = batch.stored[[*TIMES, *self._columns]]
            self._unmeasured.append(rows)
            self._unmeasured_bytes += int(rows.estimated_size())
        many = sum(map(len, self._unmeasured)) >= MEASURED_ROWS_MIN
        if many or self._unmeasured_bytes >= UNMEASURED_BYTES_MAX:
            self._measure()

    def _measure(self) -> None:
        if self._unmeasured:
            rows = pl.concat(self._unmeasured)
            self._unmeasured, self._unmeasured_bytes = [], 0
            self._take_lateness(rows)
            self._take_columns(rows)

    def _take_lateness(self, rows: pl.DataFrame) -> None:
        known_us, event_us = (rows[name] for name in TIMES)
        lateness = known_us - event_us
        # Beyond int64 for some thousand records that are decades late.
        self._lateness_sum += int(lateness.cast(pl.Int128).sum())
        self._lateness_max = max(self._lateness_max, int(lateness.max() or 0))  # type: ignore[arg-type]

    def _take_columns(self, rows: pl.DataFrame) -> None:
        for name, column in self._columns.items():
            values = rows[name]
            if nulls := values.null_count():
                column.nulls += nulls
                values = values.drop_nulls()
            if not len(values):
                continue
            column.present += len(values)
            column.take_hashes(values)
            if values.dtype.is_numeric() and self.contract.stream.columns[name].pii is None:
                least, greatest = float(values.min()), float(values.max())  # type: ignore[arg-type]
                column.least = least if column.least is None else min(least, column.least)
                column.greatest = (
                    greatest if column.greatest is None else max(greatest, column.greatest)
                )

    def quality(self) -> StreamQuality:
        self._measure()
        columns = {
            name: ColumnQuality(each.nulls, each.distinct(), each.least, each.greatest)
            for name, each in self._columns.items()
        }
        return StreamQuality(
            stream=self.contract.name,
            version=self.contract.version,
            minute_us=self.minute_us,
            stored=self._stored,
            late=self._late,
            repeats=self._repeats,
            refused_by_reason=dict(self._refused),
            lateness_us_mean=self._lateness_sum / max(self._stored, 1),
            lateness_us_max=self._lateness_max,
            offsets=self._offsets,
            columns=columns,
        )

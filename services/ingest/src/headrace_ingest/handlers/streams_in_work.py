# SPDX-License-Identifier: Apache-2.0
"""A stream in work: where its partitions stand, what is gathered of them, what is on its way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from headrace_ingest.domain.accounts import Account
from headrace_ingest.domain.batch import Batch
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.dedup import DedupIndex
from headrace_ingest.domain.judging import ARCHIVE_COLUMNS
from headrace_ingest.domain.tolerance import DeadLetterWindow
from headrace_ingest.ports.archive import Restored
from headrace_kit.kafka import RecordBatch


@dataclass(slots=True)
class Shard:
    """A raw partition in work: `account` is `stored` and what was gathered since."""

    stored: Account
    account: Account
    index: DedupIndex

    @classmethod
    def of(cls, restored: Restored, *, ids_max: int) -> Shard:
        index = DedupIndex(ids_max=ids_max, seen=restored.seen)
        return cls(restored.account, restored.account, index)


@dataclass(slots=True)
class StreamInWork:
    """`rows` are gathered since `since_s`, the last ones stored at `stored_s`.

    One that `awaits` a contract stays open: its partitions come back to where it stands.
    """

    contract: Contract
    topic_id: str
    shards: dict[int, Shard]
    window: DeadLetterWindow
    rows: list[pl.DataFrame] = field(default_factory=list)
    since_s: float | None = None
    stored_s: float = 0.0
    commit_s: float = 0.0
    in_doubt: bool = False
    awaits: bool = False

    @property
    def name(self) -> str:
        return self.contract.name

    def comes_back(self, contract: Contract, numbers: set[int]) -> bool:
        """Whether these partitions are given back to it as they were left; asked once."""
        awaited, self.awaits = self.awaits, False
        same = contract.version == self.contract.version
        return awaited and same and numbers <= self.shards.keys()

    def give_up(self, numbers: set[int]) -> None:
        """Forget these partitions, and what was gathered of them."""
        for number in numbers:
            self.shards.pop(number, None)
        self.rows = [rows.filter(~pl.col("_partition").is_in(numbers)) for rows in self.rows]

    def not_accounted_for(self, records: RecordBatch) -> RecordBatch:
        """The archive may hold more than the loop knows of; what is accounted for is not ours."""
        begins = {number: shard.account.offset for number, shard in self.shards.items()}
        if all(records.offsets[first] >= begins[of.number] for of, first, _ in records.runs):
            return records
        places = zip(records.partitions, records.offsets, strict=True)
        return records.where(offset >= begins[number] for number, offset in places)

    def indexes(self) -> Mapping[int, DedupIndex]:
        """What was seen, by partition."""
        return {number: shard.index for number, shard in self.shards.items()}

    def gather(self, records: RecordBatch, batch: Batch, now_s: float) -> None:
        """Take in a batch that is delivered, to be stored with others."""
        self.window.remember(len(records), batch.dead_at_first)
        for number, decided in batch.decided.items():
            self.shards[number].index.remember(decided)
        for number, addition in batch.additions.items():
            shard = self.shards[number]
            shard.account = shard.account.plus(addition)
        self.rows.append(batch.stored[[*ARCHIVE_COLUMNS, *self.contract.stream.columns]])
        if self.since_s is None:
            self.since_s = now_s


@dataclass(frozen=True, slots=True)
class Work:
    """A batch of one stream on its way: sorted out, to be delivered, then gathered."""

    stream: StreamInWork
    records: RecordBatch
    batch: Batch

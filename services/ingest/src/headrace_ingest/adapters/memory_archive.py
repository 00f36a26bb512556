# SPDX-License-Identifier: Apache-2.0
"""Archive of a test: the same answers as Delta, without a disk."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import polars as pl

from headrace_ingest.domain.accounts import Account
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.dedup import Seen
from headrace_ingest.ports.archive import Overtaken, RawTopic, Restored


class MemoryArchive:
    """Rows by stream, accounts by (stream, topic id, partition)."""

    def __init__(self) -> None:
        self.rows_by_stream: dict[str, list[pl.DataFrame]] = {}
        self._topic_ids: dict[str, str] = {}
        self._accounts: dict[tuple[str, str, int], Account] = {}

    def open(
        self,
        contract: Contract,
        topic_id: str,
        partitions: Collection[int],
        *,
        ids_max: int,
    ) -> Mapping[int, Restored]:
        self._topic_ids[contract.name] = topic_id
        return {
            number: self._restored(contract.name, topic_id, number, ids_max)
            for number in partitions
        }

    def _restored(self, stream: str, topic_id: str, number: int, ids_max: int) -> Restored:
        account = self._accounts.get((stream, topic_id, number), Account())
        seen = [
            Seen(*row)
            for rows in self.rows_by_stream.get(stream, [])
            for row in rows.filter(pl.col("_partition") == number)
            .select("_event_id", "_payload_sha256")
            .iter_rows()
        ]
        return Restored(account, seen[-ids_max:])

    def append(
        self,
        contract: Contract,
        rows: pl.DataFrame,
        before: Mapping[int, Account],
        after: Mapping[int, Account],
    ) -> None:
        topic_id = self._topic_ids[contract.name]
        keys = {number: (contract.name, topic_id, number) for number in after}
        now = {number: self._accounts.get(key, Account()) for number, key in keys.items()}
        if now == after:
            return
        if now != before:
            raise Overtaken(contract.name)
        self.rows_by_stream.setdefault(contract.name, []).append(rows)
        self._accounts.update({keys[number]: account for number, account in after.items()})

    def accounts(self, stream: str, topic: RawTopic) -> Mapping[int, Account]:
        return {
            number: self._accounts.get((stream, topic.topic_id, number), Account())
            for number in topic.partitions
        }

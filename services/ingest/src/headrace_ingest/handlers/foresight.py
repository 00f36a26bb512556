# SPDX-License-Identifier: Apache-2.0
"""What would become of dead letters that are sent again, as far as that can be told beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.decoding import Decode
from headrace_ingest.domain.judging import INDEX, judge
from headrace_ingest.ports.definitions import ContractBook
from headrace_ingest.ports.labels import RecordRows
from headrace_kit.kafka import Record, RecordBatch

# Event id and key: records that share both lie in one partition, whose sink remembers the id.
Name = tuple[str, str]
COLUMNS = ("_event_id", "_key", "_payload_sha256")


@dataclass(frozen=True, slots=True)
class Foresight:
    """Of one redrive: what it has let through counts as held already."""

    contracts: ContractBook
    decode: Decode
    archived: RecordRows
    _through: dict[tuple[str, Name], bytes] = field(default_factory=dict)

    def told(self, stream: str, records: Sequence[Record]) -> list[str]:
        """Why each record would be refused, as in `Judged`; empty: it would be taken, or is a
        repeat. The sink may have forgotten an id that the archive has: two records of one id help
        nobody.

        Raises NotFound STREAM_UNKNOWN, Unavailable OBJECT_STORE_UNAVAILABLE.
        """
        contract = self.contracts.get(stream)
        judged = judge(RecordBatch.of(records), contract, decode=self.decode)
        told = [judged.refused.get(number, "") for number in range(len(records))]
        held = self._held(contract, judged.rows)
        for number, event_id, key, digest in judged.rows.select(INDEX, *COLUMNS).iter_rows():
            name = event_id, key
            before = self._through.setdefault((stream, name), held.get(name, digest))
            if before != digest:
                told[number] = "DUPLICATE_CONFLICT"
        return told

    def _held(self, contract: Contract, rows: pl.DataFrame) -> Mapping[Name, bytes]:
        ids = rows["_event_id"].unique().to_list()
        if not ids:
            return {}
        found = self.archived.of_keys(contract, COLUMNS, key="_event_id", keys=ids)
        return {(event_id, key): digest for event_id, key, digest in found.iter_rows()}

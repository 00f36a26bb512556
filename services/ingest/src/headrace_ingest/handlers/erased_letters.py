# SPDX-License-Identifier: Apache-2.0
"""Dead letters that speak of an erased entity: Kafka keeps them, but nobody is shown or sent them.

A topic cannot lose single records before its retention, so it is here that they end: the payload
and the key are not told, and the record is never sent again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from headrace.errors import NotFound
from headrace_ingest.domain.decoding import Decode
from headrace_ingest.domain.judging import INDEX, readable_columns
from headrace_ingest.ports.definitions import ContractBook
from headrace_kit.dead_letters import OUR_HEADERS
from headrace_kit.erased_entities import ErasedEntities
from headrace_kit.kafka import Record, RecordBatch


@dataclass(frozen=True, slots=True)
class ErasedLetters:
    """Knows them by what can be read of their records, however wrong these are."""

    contracts: ContractBook
    erased: ErasedEntities
    decode: Decode

    def among(self, stream: str, records: Sequence[Record]) -> list[bool]:
        """Which of these, as they were on the raw topic, speak of an erased entity."""
        try:
            contract = self.contracts.get(stream)
        except NotFound:
            return [False] * len(records)
        if not self.erased.columns() & set(contract.stream.columns):
            return [False] * len(records)
        rows = readable_columns(RecordBatch.of(records), contract, decode=self.decode)
        found = set(rows[INDEX].gather(list(self.erased.found(rows, rows["_event_time_us"]))))
        return [number in found for number in range(len(records))]


def veiled(letter: Record) -> Record:
    """The letter without what its record said, and without its own headers."""
    told = {name: each for name, each in letter.headers.items() if name.startswith(OUR_HEADERS)}
    return replace(letter, value=None, headers={**told, "dl-key": b""})

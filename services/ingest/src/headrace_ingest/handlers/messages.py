# SPDX-License-Identifier: Apache-2.0
"""What ingest publishes: accepted records, and dead letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import polars as pl

from headrace import topics
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.judging import PUBLISHED, VALUE
from headrace_kit.dead_letters import dead_letter
from headrace_kit.kafka import Message, Record

KEY_BYTES_KEPT_MAX = 1_024
# A copy would be refused, or end the next process: coordinates and digest only.
POINTER_ONLY = ("TOO_LARGE", "POISON_CRASH")
_HEADER_COLUMNS = {
    "ce_id": "_event_id",
    "ce_time": "_event_time_us",
    "headrace-known-time": "_known_time_us",
    "headrace-published-ms": PUBLISHED,
}


def record_messages(contract: Contract, rows: pl.DataFrame) -> list[Message]:
    """One message for each row, whose `ce_id` is the same in every replay."""
    topic = topics.INGEST_RECORDS.of(contract.name)
    schema = ("ce_dataschema", contract.schema_id.encode())
    names = tuple(_HEADER_COLUMNS)
    texts = [rows[c].cast(pl.String).cast(pl.Binary).to_list() for c in _HEADER_COLUMNS.values()]
    keys = rows["_key"].cast(pl.Binary).to_list()
    tails = [(schema, ("headrace-late", b"1")) if late else (schema,) for late in rows["_late"]]
    return [
        Message(topic, key, value, (*zip(names, header, strict=True), *tail))
        for key, value, header, tail in zip(
            keys, rows[VALUE].to_list(), zip(*texts, strict=True), tails, strict=True
        )
    ]


def dead_letters(records: Sequence[Record], dead: Mapping[int, str]) -> list[Message]:
    """One message for each record that is set aside."""
    return [_dead_letter(records[index], reason) for index, reason in dead.items()]


def _dead_letter(record: Record, reason: str) -> Message:
    if reason not in POINTER_ONLY:
        return dead_letter(record, reason=reason, service="ingest")
    key = (record.key or b"")[:KEY_BYTES_KEPT_MAX]
    pointer = dead_letter(replace(record, key=key, headers={}), reason=reason, service="ingest")
    return replace(pointer, value=None)

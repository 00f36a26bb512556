# SPDX-License-Identifier: Apache-2.0
"""What ingest publishes: accepted records, and dead letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import polars as pl

from headrace import topics
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.erasures import ENTITY_ERASED
from headrace_ingest.domain.judging import VALUE
from headrace_kit.dead_letters import ORIGIN_HEADERS, dead_letter
from headrace_kit.kafka import Message, Record

KEY_BYTES_KEPT_MAX = 1_024
# A copy would be refused, end the next process, or keep whom it may not: coordinates and digest.
POINTER_ONLY = ("TOO_LARGE", "POISON_CRASH", ENTITY_ERASED)


def record_messages(contract: Contract, rows: pl.DataFrame) -> list[Message]:
    """One message for each row, whose `ce_id` is the same in every replay.

    Headers are for those who look from outside: they cost more than the value, which says it all.
    """
    topic = topics.INGEST_RECORDS.of(contract.name)
    schema = ("ce_dataschema", contract.schema_id.encode())
    keys, ids = (rows[name].cast(pl.Binary).to_list() for name in ("_key", "_event_id"))
    return [
        Message(topic, key, value, (("ce_id", event_id), schema))
        for key, event_id, value in zip(keys, ids, rows[VALUE].to_list(), strict=True)
    ]


def dead_letters(records: Sequence[Record], dead: Mapping[int, str]) -> list[Message]:
    """One message for each record that is set aside."""
    return [_dead_letter(records[index], reason) for index, reason in dead.items()]


def _dead_letter(record: Record, reason: str) -> Message:
    if reason not in POINTER_ONLY:
        return dead_letter(record, reason=reason, service="ingest")
    key = b"" if reason == ENTITY_ERASED else (record.key or b"")[:KEY_BYTES_KEPT_MAX]
    headers = {name: record.headers[name] for name in ORIGIN_HEADERS if name in record.headers}
    bare = replace(record, key=key, headers=headers)
    pointer = dead_letter(bare, reason=reason, service="ingest")
    return replace(pointer, value=None)

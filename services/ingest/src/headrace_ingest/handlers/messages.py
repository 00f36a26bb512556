# SPDX-License-Identifier: Apache-2.0
"""What ingest publishes: accepted records, and dead letters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import polars as pl

from headrace_ingest.domain.erasures import ENTITY_ERASED
from headrace_ingest.domain.faults import leading
from headrace_ingest.domain.judging import INDEX, VALUE
from headrace_kit.dead_letters import ORIGIN_HEADERS, dead_letter
from headrace_kit.kafka import Message, Record, RecordBatch

KEY_BYTES_KEPT_MAX = 1_024
# A copy would be refused, end the next process, or keep whom it may not: coordinates and digest.
POINTER_ONLY = ("TOO_LARGE", "POISON_CRASH", ENTITY_ERASED)


def accepted(records: RecordBatch, rows: pl.DataFrame) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of each row, whose `_id` is the same in every replay.

    They have no headers: those cost more than the whole value, which says it all.
    """
    keys, values = records.keys(), rows[VALUE].to_list()
    if len(values) < len(keys):
        keys = [keys[index] for index in rows[INDEX]]
    return zip(keys, values, strict=True)  # type: ignore[arg-type]  # a row has a key


def dead_letters(records: Sequence[Record], dead: Mapping[int, str]) -> list[Message]:
    """One message for each record that is set aside; `dead`: why, as in `Judged`."""
    return [_dead_letter(records[index], reasons) for index, reasons in dead.items()]


def _dead_letter(record: Record, reasons: str) -> Message:
    reason = leading(reasons)
    if reason not in POINTER_ONLY:
        return dead_letter(record, reason=reason, reasons=reasons, service="ingest")
    key = b"" if reason == ENTITY_ERASED else (record.key or b"")[:KEY_BYTES_KEPT_MAX]
    headers = {name: record.headers[name] for name in ORIGIN_HEADERS if name in record.headers}
    bare = replace(record, key=key, headers=headers)
    pointer = dead_letter(bare, reason=reason, reasons=reasons, service="ingest")
    return replace(pointer, value=None)

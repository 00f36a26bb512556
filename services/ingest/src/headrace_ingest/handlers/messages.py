# SPDX-License-Identifier: Apache-2.0
"""What ingest publishes: accepted records, and dead letters."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import polars as pl

from headrace_ingest.domain.erasures import ENTITY_ERASED
from headrace_ingest.domain.faults import leading
from headrace_ingest.domain.judging import INDEX
from headrace_ingest.domain.row_steps import VALUE
from headrace_kit.dead_letters import dead_letter, origin_of
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


def dead_letters(
    records: Sequence[Record], dead: Mapping[int, str], redriven: Collection[int]
) -> list[Message]:
    """One message for each record that is set aside; `dead` and `redriven`: as in `Batch`."""
    return [
        _dead_letter(records[index], reasons, sent_again=index in redriven)
        for index, reasons in dead.items()
    ]


def _dead_letter(record: Record, reasons: str, *, sent_again: bool) -> Message:
    reason, origin = leading(reasons), origin_of(record.headers) if sent_again else None
    letter = partial(dead_letter, reason=reason, reasons=reasons, service="ingest", origin=origin)
    if reason not in POINTER_ONLY:
        return letter(record)
    key = b"" if reason == ENTITY_ERASED else (record.key or b"")[:KEY_BYTES_KEPT_MAX]
    return replace(letter(replace(record, key=key, headers={})), value=None)

# SPDX-License-Identifier: Apache-2.0
"""Sorts a batch of raw records out: what to store, what to set aside and why, what came before.

Every record is in exactly one of the three, and `additions` counts them by raw partition.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from headrace_ingest.domain.accounts import Account
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.dedup import Decided, DedupIndex, Outcome, Seen
from headrace_ingest.domain.envelope import RawRecord
from headrace_ingest.domain.judging import INDEX, Decode, judge


@dataclass(frozen=True, slots=True)
class Batch:
    """`stored`: rows as in `Judged`; `dead`: reason by index of the record; the rest by partition.

    `decided` is to be remembered by the indexes once all is delivered.
    """

    stored: pl.DataFrame
    dead: Mapping[int, str]
    additions: Mapping[int, Account]
    decided: Mapping[int, Decided]


def sort_out(
    records: Sequence[RawRecord],
    contract: Contract,
    indexes: Mapping[int, DedupIndex],
    *,
    decode: Decode,
) -> Batch:
    """Sort out records of one stream, in order within each partition; changes no index."""
    judged = judge(records, contract, decode=decode)
    decided, outcomes = _decide(judged.rows, indexes)
    stored = judged.rows.filter(pl.Series([o is Outcome.NEW for o in outcomes], dtype=pl.Boolean))
    dead = {index: reason for index, reason in enumerate(judged.reasons) if reason is not None}
    repeats: Counter[int] = Counter()
    for index, outcome in zip(judged.rows[INDEX], outcomes, strict=True):
        if outcome is Outcome.CONFLICT:
            dead[index] = "DUPLICATE_CONFLICT"
        elif outcome is Outcome.REPEAT:
            repeats[records[index].partition] += 1
    return Batch(stored, dead, _additions(records, stored, dead, repeats), decided)


def set_aside(record: RawRecord, contract: Contract, reason: str) -> Batch:
    """The batch of one record that is not even looked at."""
    account = Account(offset=record.offset + 1, dead_by_reason={reason: 1})
    nothing = judge([], contract, decode=_undecodable).rows
    return Batch(nothing, {0: reason}, {record.partition: account}, {})


def _undecodable(value: bytes) -> dict[str, object]:
    raise AssertionError("there is nothing to decode")


def _decide(
    rows: pl.DataFrame, indexes: Mapping[int, DedupIndex]
) -> tuple[dict[int, Decided], list[Outcome]]:
    """What each partition's index says, and the outcomes in the order of the rows."""
    columns = (rows["_event_id"], rows["_payload_sha256"], rows["_known_time_us"])
    seen_by_partition: dict[int, list[Seen]] = defaultdict(list)
    partitions = rows["_partition"].to_list()
    for partition, *seen in zip(partitions, *columns, strict=True):
        seen_by_partition[partition].append(Seen(*seen))
    decided = {
        partition: indexes[partition].decide(seen) for partition, seen in seen_by_partition.items()
    }
    answers = {partition: iter(each.outcomes) for partition, each in decided.items()}
    return decided, [next(answers[partition]) for partition in partitions]


def _additions(
    records: Sequence[RawRecord],
    stored: pl.DataFrame,
    dead: Mapping[int, str],
    repeats: Mapping[int, int],
) -> dict[int, Account]:
    offsets = {record.partition: record.offset + 1 for record in records}
    dead_by_partition: dict[int, Counter[str]] = defaultdict(Counter)
    for index, reason in dead.items():
        dead_by_partition[records[index].partition][reason] += 1
    counts = stored.group_by("_partition").agg(
        pl.len(), pl.col("_late").sum().alias("late"), pl.col("_known_time_us").max().alias("known")
    )
    kept = {partition: rest for partition, *rest in counts.iter_rows()}
    additions = {}
    for partition, offset in offsets.items():
        rows, late, known_time_us = kept.get(partition, (0, 0, 0))
        additions[partition] = Account(
            offset=offset,
            stored=rows,
            late=late,
            repeats=repeats.get(partition, 0),
            dead_by_reason=dead_by_partition[partition],
            known_time_us=known_time_us,
        )
    return additions

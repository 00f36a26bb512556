# SPDX-License-Identifier: Apache-2.0
"""Sorts a batch of raw records out: what to store, what to set aside and why, what came before.

Every record is in exactly one of the three, and `additions` counts them by raw partition.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise, repeat

import numpy as np
import polars as pl

from headrace_ingest.domain.accounts import Account
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.decoding import Decode
from headrace_ingest.domain.dedup import Decided, DedupIndex, Outcome
from headrace_ingest.domain.envelope import RawBatch
from headrace_ingest.domain.erasures import ENTITY_ERASED, ErasedEvents
from headrace_ingest.domain.faults import leading
from headrace_ingest.domain.judging import INDEX, Judged, judge, no_rows
from headrace_kit.erased_entities import Entity, ErasedEntities


@dataclass(frozen=True, slots=True)
class Batch:
    """`stored`: rows as in `Judged`; `dead`: why, by index of the record; the rest by partition.

    `decided` is to be remembered by the indexes once all is delivered. `redriven`: which
    records are dead letters that were sent again.
    `erased`: the events that were refused because they speak of an erased entity.
    """

    stored: pl.DataFrame
    dead: Mapping[int, str]
    additions: Mapping[int, Account]
    decided: Mapping[int, Decided]
    redriven: frozenset[int] = frozenset()
    erased: Sequence[ErasedEvents] = ()

    @property
    def dead_at_first(self) -> list[int]:
        """Which records became dead letters for the first time, by a fault of their publisher."""
        return [
            index
            for index, reason in self.dead.items()
            if index not in self.redriven and reason != ENTITY_ERASED
        ]


def sort_out(
    records: RawBatch,
    contract: Contract,
    indexes: Mapping[int, DedupIndex],
    *,
    decode: Decode,
    erased: ErasedEntities,
    redriven: frozenset[int] = frozenset(),
) -> Batch:
    """Sort out records of one stream, in order within each partition; changes no index.

    `redriven`: as in `Batch`.
    """
    judged, gone = without_erased(judge(records, contract, decode=decode), contract.name, erased)
    decided, outcomes = _decide(judged.rows, indexes)
    dead, stored = dict(judged.refused), judged.rows
    repeats: Counter[int] = Counter()
    if outcomes:
        stored = stored.filter(pl.Series([outcome is Outcome.NEW for outcome in outcomes]))
        for index, outcome in zip(judged.rows[INDEX], outcomes, strict=True):
            if outcome is Outcome.CONFLICT:
                dead[index] = "DUPLICATE_CONFLICT"
            elif outcome is Outcome.REPEAT:
                repeats[records.partitions[index]] += 1
    additions = _additions(records, stored, dead, repeats)
    if redriven:
        judged_again = redriven & {*dead, *stored[INDEX]}
        again = Counter(records.partitions[index] for index in judged_again)
        additions = {n: replace(each, redriven=again[n]) for n, each in additions.items()}
    return Batch(stored, dead, additions, decided, redriven, gone)


def without_erased(
    judged: Judged, stream: str, erased: ErasedEntities
) -> tuple[Judged, list[ErasedEvents]]:
    """What speaks of an erased entity is refused, in whatever copy it comes; and these events.

    An earlier process may have published one and ended before it was stored: who took it then is
    told that it is gone.
    """
    found = erased.found(judged.rows, judged.rows["_event_time_us"])
    if not found:
        return judged, []
    refused = dict.fromkeys(judged.rows[INDEX].gather(list(found)).to_list(), ENTITY_ERASED)
    kept = pl.int_range(pl.len()).is_in(list(found)).not_()
    left = replace(judged, refused={**judged.refused, **refused}, rows=judged.rows.filter(kept))
    return left, _events(judged.rows, stream, found)


def _events(rows: pl.DataFrame, stream: str, found: Mapping[int, Entity]) -> list[ErasedEvents]:
    places: dict[Entity, list[int]] = defaultdict(list)
    for place, entity in found.items():
        places[entity].append(place)
    return [
        ErasedEvents(
            stream,
            entity,
            rows["_event_id"].gather(own).to_list(),
            rows["_event_time_us"].gather(own).to_list(),
        )
        for entity, own in places.items()
    ]


def set_aside(
    record: RawBatch, contract: Contract, reason: str, *, redriven: frozenset[int]
) -> Batch:
    """The batch of one record whose value is not even looked at."""
    offset, dead = record.offsets[0] + 1, {reason: 1}
    account = Account(offset=offset, dead_by_reason=dead, redriven=len(redriven))
    additions = {record.partitions[0]: account}
    return Batch(no_rows(contract.stream), {0: reason}, additions, {}, redriven)


def _decide(
    rows: pl.DataFrame, indexes: Mapping[int, DedupIndex]
) -> tuple[dict[int, Decided], list[Outcome]]:
    """What each partition's index says, and the outcomes in the order of the rows.

    No outcomes: every row is new.
    """
    asked = [rows[name].to_list() for name in ("_event_id", "_payload_sha256")]
    decided = dict[int, Decided]()
    for number, slices in _slices_by_partition(rows).items():
        own = ([*chain.from_iterable(column[each] for each in slices)] for column in asked)
        decided[number] = indexes[number].decide(*own)
    if not any(each.outcomes for each in decided.values()):
        return decided, []
    left = {number: iter(each.outcomes or repeat(Outcome.NEW)) for number, each in decided.items()}
    return decided, [next(left[number]) for number in rows["_partition"]]


def _slices_by_partition(rows: pl.DataFrame) -> dict[int, list[slice]]:
    """Where its rows lie together."""
    partitions = rows["_partition"].to_numpy()
    slices: dict[int, list[slice]] = defaultdict(list)
    if len(partitions):
        changes = (np.flatnonzero(partitions[1:] != partitions[:-1]) + 1).tolist()
        for first, end in pairwise((0, *changes, len(partitions))):
            slices[int(partitions[first])].append(slice(first, end))
    return slices


def _additions(
    records: RawBatch,
    stored: pl.DataFrame,
    dead: Mapping[int, str],
    repeats: Mapping[int, int],
) -> dict[int, Account]:
    last = {number: records.offsets[end - 1] for (_, number), _, end in records.runs}
    dead_by_partition: dict[int, Counter[str]] = defaultdict(Counter)
    for index, reason in dead.items():
        dead_by_partition[records.partitions[index]][leading(reason)] += 1
    late, known_us = stored["_late"].to_numpy(), stored["_known_time_us"].to_numpy()
    slices = _slices_by_partition(stored)
    return {
        partition: Account(
            offset=offset + 1,
            stored=sum(each.stop - each.start for each in slices[partition]),
            late=sum(int(late[each].sum()) for each in slices[partition]),
            repeats=repeats.get(partition, 0),
            dead_by_reason=dead_by_partition[partition],
            known_time_us=max((int(known_us[each].max()) for each in slices[partition]), default=0),
        )
        for partition, offset in last.items()
    }

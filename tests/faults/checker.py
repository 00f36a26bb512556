# SPDX-License-Identifier: Apache-2.0
"""Compares what was promised with what is there, and counts what is wrong by the letter broken.

It sees the outside alone: the ledger, the raw topic's ends, the archive, the topics, the answers. A
checker that finds nothing proves nothing until its mutants are caught (`test_mutants.py`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from tests.faults.ledger import Entry, Outcome

from headrace.reasons import REASONS

CAP_SLACK = 1.1


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the archive."""

    event_id: str
    sha256: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, by the coordinates of the record."""

    partition: int
    offset: int
    reason: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Published:
    """A record on `ingest.records.*`, in the order of its partition."""

    key: str
    event_id: str


@dataclass(frozen=True, slots=True)
class Seen:
    """All that is there after the faults have ended and the lag is gone.

    `repeats`: as the service counts them, by raw partition. `features`: answers by
    (entity, feature), NaN for absent. `rss_bytes`: of a process, sampled.
    """

    raw_end_by_partition: Mapping[int, int]
    rows: Sequence[Row]
    letters: Sequence[Letter]
    repeats: Mapping[int, int]
    published: Sequence[Published]
    features: Mapping[tuple[str, str], float]
    rss_bytes: Sequence[int] = ()
    rss_bytes_max: int = 0


@dataclass(frozen=True, slots=True)
class Findings:
    """How many of each; all zero is what must hold."""

    lost: int = 0
    double: int = 0
    phantom: int = 0
    disorder: int = 0
    unaccounted: int = 0
    oracle: int = 0
    over_cap: int = 0

    def wrong(self) -> dict[str, int]:
        return {name: count for name, count in asdict(self).items() if count}


def check(
    entries: Mapping[str, Entry], seen: Seen, oracle: Mapping[tuple[str, str], float]
) -> Findings:
    """`oracle`: what the features must be."""
    return Findings(
        lost=_lost(entries, seen),
        double=_double(seen),
        phantom=_phantom(entries, seen),
        disorder=_disorder(seen),
        unaccounted=_unaccounted(seen),
        oracle=_against(oracle, seen.features),
        over_cap=sum(size > seen.rss_bytes_max * CAP_SLACK for size in seen.rss_bytes),
    )


def _lost(entries: Mapping[str, Entry], seen: Seen) -> int:
    """Accepted, and neither stored nor set aside; and stored, but never published (P1)."""
    stored = {row.event_id for row in seen.rows}
    aside = {letter.sha256 for letter in seen.letters}
    published = {each.event_id for each in seen.published}
    gone = [
        event_id
        for event_id, entry in entries.items()
        if entry.outcome is Outcome.OK and event_id not in stored and not entry.sha256s & aside
    ]
    return len(gone) + len(stored - published)


def _double(seen: Seen) -> int:
    counts = Counter(row.event_id for row in seen.rows)
    return sum(count - 1 for count in counts.values())


def _phantom(entries: Mapping[str, Entry], seen: Seen) -> int:
    """Stored or published, but never sent, or with a payload that was never sent."""
    stored = sum(
        row.event_id not in entries or row.sha256 not in entries[row.event_id].sha256s
        for row in seen.rows
    )
    return stored + len({each.event_id for each in seen.published} - entries.keys())


def _disorder(seen: Seen) -> int:
    """Events of a key whose first copies were published in another order than they came in.

    Among those of one raw partition: a key has another one after partitions were raised.
    """
    place_by_id = {row.event_id: (row.partition, row.offset) for row in seen.rows}
    furthest: dict[tuple[str, int], int] = {}
    known: set[str] = set()
    wrong = 0
    for each in seen.published:
        if each.event_id in known or each.event_id not in place_by_id:
            continue
        known.add(each.event_id)
        partition, offset = place_by_id[each.event_id]
        before = furthest.get((each.key, partition), -1)
        wrong += offset < before
        furthest[each.key, partition] = max(offset, before)
    return wrong


def _unaccounted(seen: Seen) -> int:
    """P13 by partition, and letters whose reason is not of the closed list."""
    rows = Counter(row.partition for row in seen.rows)
    letters = Counter(
        partition for partition, _ in {(each.partition, each.offset) for each in seen.letters}
    )
    missing = sum(
        abs(end - rows[number] - letters[number] - seen.repeats.get(number, 0))
        for number, end in seen.raw_end_by_partition.items()
    )
    unknown = sum(
        each.reason not in REASONS or not REASONS[each.reason].records for each in seen.letters
    )
    return missing + unknown


def _against(
    expected: Mapping[tuple[str, str], float], found: Mapping[tuple[str, str], float]
) -> int:
    return sum(
        not (found[name] == value or (math.isnan(value) and math.isnan(found[name])))
        if name in found
        else 1
        for name, value in expected.items()
    )

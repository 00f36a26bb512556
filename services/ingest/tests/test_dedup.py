# SPDX-License-Identifier: Apache-2.0
"""An id is stored once among the newest rows, and a rebuilt index decides as the old one."""

from __future__ import annotations

from hashlib import sha256

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_ingest.domain.dedup import DedupIndex, Outcome, Seen

NEW, REPEAT, CONFLICT = Outcome.NEW, Outcome.REPEAT, Outcome.CONFLICT


def taken(index, *records):
    decided = index.decide(*columns(records))
    index.remember(decided)
    return list(decided.outcomes) or [NEW] * len(records)


def columns(records):
    hashed = [(event_id, sha256(payload).digest()) for event_id, payload in records]
    return [list(column) for column in zip(*hashed, strict=True)] if hashed else [[], []]


def an_index(ids_max=1_000):
    return DedupIndex(ids_max=ids_max)


def test_same_payload_is_a_repeat_and_another_one_a_conflict():
    index = an_index()

    assert [NEW, REPEAT, CONFLICT, REPEAT] == taken(
        index, ("a", b"1"), ("a", b"1"), ("a", b"2"), ("a", b"1")
    )
    assert [REPEAT, CONFLICT, NEW] == taken(index, ("a", b"1"), ("a", b"2"), ("b", b"1"))


def test_deciding_alone_remembers_nothing():
    index = an_index()

    index.decide(*columns([("a", b"1")]))

    assert [NEW] == taken(index, ("a", b"1"))


def test_only_the_newest_ids_are_kept():
    index = an_index(ids_max=80)

    for number in range(1_000):
        taken(index, (f"{number}", b"1"))

    assert len(index) <= 90
    assert [REPEAT] * 80 == taken(index, *[(f"{number}", b"1") for number in range(920, 1_000)])


def test_id_beyond_the_newest_ones_is_forgotten_at_once():
    index = an_index(ids_max=3)
    taken(index, *[(event_id, b"1") for event_id in "abc"])
    assert [REPEAT, NEW, NEW] == taken(index, ("a", b"1"), ("d", b"1"), ("a", b"1"))

    assert [REPEAT, NEW, REPEAT] == taken(index, ("c", b"1"), ("b", b"1"), ("a", b"1"))


def batched(items, size):
    return [items[start : start + size] for start in range(0, len(items), size)]


records = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from([b"1", b"2"])),
    max_size=40,
)


@given(
    before=records,
    after=records,
    ids_max=st.sampled_from([1, 2, 4, 1_000]),
    batch=st.integers(1, 9),
)
@settings(max_examples=300, deadline=None)
def test_index_rebuilt_from_what_was_stored_decides_alike(before, after, ids_max, batch):
    index = an_index(ids_max)
    outcomes = [o for part in batched(before, batch) for o in taken(index, *part)]
    stored = [
        Seen(*record)
        for record, outcome in zip(zip(*columns(before), strict=True), outcomes, strict=True)
        if outcome is NEW
    ]
    rebuilt = DedupIndex(ids_max=ids_max, seen=stored[-ids_max:])

    assert taken(index, *after) == taken(rebuilt, *after)

# SPDX-License-Identifier: Apache-2.0
"""An id is stored once within the horizon, and a rebuilt index decides as the old one."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_ingest.domain.dedup import Decided, DedupIndex, Outcome, Seen

NEW, REPEAT, CONFLICT = Outcome.NEW, Outcome.REPEAT, Outcome.CONFLICT
HORIZON_US = 70


def taken(index, *records):
    decided = index.decide(Seen(*record) for record in records)
    index.remember(decided)
    return list(decided.outcomes)


def an_index(ids_max=1_000):
    return DedupIndex(ids_max=ids_max, horizon_us=HORIZON_US)


def test_same_payload_is_a_repeat_and_another_one_a_conflict():
    index = an_index()

    assert [NEW, REPEAT, CONFLICT, REPEAT] == taken(
        index, ("a", b"1", 10), ("a", b"1", 11), ("a", b"2", 12), ("a", b"1", 13)
    )
    assert [REPEAT, CONFLICT, NEW] == taken(index, ("a", b"1", 14), ("a", b"2", 14), ("b", b"1", 1))


def test_deciding_alone_remembers_nothing():
    index = an_index()

    index.decide([Seen("a", b"1", 10)])

    assert [NEW] == taken(index, ("a", b"1", 10))


def test_id_is_forgotten_beyond_the_horizon_of_known_time():
    index = an_index()
    taken(index, ("a", b"1", 10))

    assert [NEW, REPEAT] == taken(index, ("b", b"1", 80), ("a", b"2", 81))[:1] + taken(
        index, ("b", b"1", 82)
    )
    assert [NEW, NEW] == taken(index, ("c", b"1", 200), ("a", b"2", 201))


def test_only_the_newest_ids_are_kept():
    index = an_index(ids_max=80)

    for number in range(1_000):
        taken(index, (f"{number}", b"1", 10))

    assert len(index) <= 90
    assert [REPEAT] * 80 == taken(index, *[(f"{number}", b"1", 10) for number in range(920, 1_000)])


records = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from([b"1", b"2"]), st.integers(0, 300)),
    max_size=40,
)


@given(before=records, after=records)
@settings(max_examples=200, deadline=None)
def test_index_rebuilt_from_what_was_stored_decides_alike(before, after):
    index = an_index()
    outcomes = [taken(index, record)[0] for record in before]
    stored = [record for record, outcome in zip(before, outcomes, strict=True) if outcome is NEW]
    newest_us = max((known_us for _, _, known_us in stored), default=0)
    fresh: dict[str, tuple[bytes, int]] = {}
    for event_id, payload, known_us in stored:
        if known_us >= newest_us - HORIZON_US:
            fresh.pop(event_id, None)
            fresh[event_id] = (payload, known_us)
    rebuilt = an_index()
    rebuilt.remember(Decided((), fresh, newest_us))

    assert taken(index, *after) == taken(rebuilt, *after)

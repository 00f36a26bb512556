# SPDX-License-Identifier: Apache-2.0
"""Windows of dead letters: whatever their size, each record's last letter is told once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_ingest.domain.letters import Letter, Position, Selection, Sent, Window

KEYS = [b"a", b"b", b"c", b"d"]


def a_letter(offset=0, *, attempt=1, stream="s", reason="EMPTY", set_aside_ms=0):
    return Letter(Position(0, offset), stream, 0, 0, reason, attempt, set_aside_ms)


def read(entries, *, selection=None, letters_max=100):
    window = Window(selection or Selection(), letters_max)
    window.read(entries)
    return window


def pages(entries, letters_max):
    """All windows of that size, one after the other."""
    found, begin = [], 0
    while begin is not None:
        window = read(entries[begin:], letters_max=letters_max)
        found += window.letters()
        begin = None if window.following is None else window.following.offset
    return found


@st.composite
def logs(draw):
    """What a partition may hold: letters with rising attempts, each sent again or not."""
    attempts: dict[bytes, int] = {}
    entries = []
    for key in draw(st.lists(st.sampled_from(KEYS), max_size=30)):
        if attempts.get(key) and draw(st.booleans()):
            entries.append((key, Sent(Position(0, len(entries)), attempts[key])))
        else:
            attempts[key] = attempts.get(key, 0) + 1
            entries.append((key, a_letter(len(entries), attempt=attempts[key])))
    return entries


@settings(deadline=None)
@given(logs(), st.integers(1, 5))
def test_windows_of_any_size_tell_the_same(entries, letters_max):
    assert pages(entries, 1_000) == pages(entries, letters_max)


@settings(deadline=None)
@given(logs())
def test_each_record_is_told_by_its_last_letter(entries):
    last = {key: each for key, each in entries if isinstance(each, Letter)}

    assert {*last.values()} == {letter for letter, _ in read(entries).letters()}


def test_letter_waits_until_it_is_sent_again():
    letter = (b"a", a_letter())

    assert 1 == len(read([letter]).waiting())
    assert [] == read([letter, (b"a", Sent(Position(0, 1), 1))]).waiting()


def test_record_that_failed_again_waits_again():
    entries = [(b"a", a_letter()), (b"a", Sent(Position(0, 1), 1)), (b"a", a_letter(2, attempt=2))]

    assert [2] == [letter.attempt for letter in read(entries).waiting()]


def test_mark_that_comes_behind_the_next_letter_does_not_hide_it():
    entries = [(b"a", a_letter()), (b"a", a_letter(1, attempt=2)), (b"a", Sent(Position(0, 2), 1))]

    assert [2] == [letter.attempt for letter in read(entries).waiting()]


def test_selection_takes_by_stream_reason_time_and_place():
    letter = a_letter(7, stream="rides", reason="BAD_TYPE", set_aside_ms=50)
    taken = [
        Selection(),
        Selection(stream="rides", reason="BAD_TYPE"),
        Selection(since_ms=50, until_ms=51),
        Selection(positions=frozenset([Position(0, 7)])),
    ]
    left = [
        Selection(stream="asks"),
        Selection(reason="EMPTY"),
        Selection(since_ms=51),
        Selection(until_ms=50),
        Selection(positions=frozenset([Position(0, 8)])),
    ]

    assert [True] * 4 == [each.takes(letter) for each in taken]
    assert [False] * 5 == [each.takes(letter) for each in left]

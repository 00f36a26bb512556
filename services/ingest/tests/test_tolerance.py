# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random

import pytest

from headrace_ingest.domain.tolerance import DeadLetterWindow, Tolerance


@pytest.fixture
def window():
    """At most two of any ten consecutive records."""
    return DeadLetterWindow(Tolerance(share_max=0.2, window_records=10))


def test_share_of_the_window_is_allowed_and_one_more_is_not(window):
    assert window.allows([0, 9])
    assert not window.allows([0, 5, 9])


def test_dead_letters_further_apart_than_the_window_do_not_add_up(window):
    assert window.allows([0, 5, 10, 15])


def test_earlier_batches_count(window):
    window.remember(6, [4, 5])

    assert not window.allows([7])
    assert window.allows([8])


def test_asking_changes_nothing(window):
    for _ in range(5):
        assert window.allows([0, 1])


def test_share_of_one_has_no_limit():
    assert DeadLetterWindow(Tolerance(share_max=1.0, window_records=10)).allows(range(1_000))


def test_share_below_one_record_allows_none():
    assert not DeadLetterWindow(Tolerance(share_max=0.05, window_records=10)).allows([0])


@pytest.mark.parametrize("seed", range(50))
def test_answer_does_not_depend_on_how_records_are_batched(seed):
    chance = random.Random(seed)
    tolerance = Tolerance(share_max=0.3, window_records=20)
    dead = [index for index in range(200) if chance.random() < 0.15]
    flags = [index in dead for index in range(200)]
    expected = all(sum(flags[at : at + 20]) <= 6 for at in range(200))

    window, at, allowed = DeadLetterWindow(tolerance), 0, True
    while at < 200:
        size = chance.randrange(1, 40)
        batch = [index - at for index in dead if at <= index < at + size]
        allowed = allowed and window.allows(batch)
        window.remember(size, batch)
        at += size

    assert expected == allowed

# SPDX-License-Identifier: Apache-2.0
"""What callers do not take is bounded in bytes, and given up in time."""

import pytest

from headrace.errors import Busy
from headrace_kit.unread_answers import COUNTED_BYTES_MIN, UNREAD_S_MAX, UnreadAnswers

SIZE = COUNTED_BYTES_MIN


class Call:
    """In the place of a ServicerContext."""

    def __init__(self, *, over=False):
        self.over, self.callbacks = over, []

    def add_callback(self, callback):
        self.callbacks.append(callback)
        return not self.over

    def cancel(self):
        self.over = True
        for callback in self.callbacks:
            callback()


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def unread(clock):
    """With room for two."""
    return UnreadAnswers(2 * SIZE, clock)


def test_answers_without_room_are_refused_until_one_was_taken(unread):
    calls = [Call(), Call()]
    for call in calls:
        unread.hold(call, SIZE)

    with pytest.raises(Busy, match="QUEUE_FULL"):
        unread.hold(Call(), SIZE)

    assert 2 * SIZE == unread.bytes()
    calls[0].cancel()
    unread.hold(Call(), SIZE)


def test_small_answers_are_not_counted(unread):
    for _ in range(10):
        unread.hold(Call(), SIZE - 1)

    assert 0 == unread.bytes()


def test_call_that_is_over_already_holds_nothing(unread):
    unread.hold(Call(over=True), SIZE)

    assert 0 == unread.bytes()


def test_what_nobody_took_in_time_gives_way_to_the_next(unread, clock):
    first, second = Call(), Call()
    unread.hold(first, SIZE)
    clock.now_s += 1.0
    unread.hold(second, SIZE)
    clock.now_s += UNREAD_S_MAX - 0.5
    unread.hold(Call(), SIZE)

    assert (True, False) == (first.over, second.over)
    assert 2 * SIZE == unread.bytes()

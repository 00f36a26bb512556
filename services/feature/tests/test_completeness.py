# SPDX-License-Identifier: Apache-2.0
"""When the archive holds all that was known at a moment, and what it says that it waits for."""

import pytest
from feature_world import DAY, HOUR, MINUTE, SECOND, START

from headrace.errors import Invalid
from headrace_feature.domain.completeness import (
    StoredPartition,
    StreamReach,
    check_not_to_come,
)
from headrace_kit.clock import CLOCK_SKEW_US

ASKED = START + DAY


def a_partition(*, offset=10, end=10, known=START, accounted=ASKED):
    return StoredPartition(offset, end, known, accounted)


def a_reach(*partitions):
    return StreamReach("rides", ASKED, dict(enumerate(partitions)))


def test_stream_has_passed_what_each_partition_has_passed():
    reach = a_reach(a_partition(known=START + HOUR), a_partition(known=START))

    assert START - 1 == reach.known_to_us
    assert (True, False) == (reach.holds(START - 1), reach.holds(START))


def test_quiet_partition_holds_back_nobody():
    quiet = a_partition(known=START, accounted=ASKED - 5 * MINUTE)

    assert START + HOUR - 1 == a_reach(quiet, a_partition(known=START + HOUR)).known_to_us
    assert ASKED == a_reach(quiet).known_to_us


@pytest.mark.parametrize(
    "partition",
    [
        a_partition(accounted=ASKED - 5 * MINUTE + 1),
        a_partition(accounted=ASKED - DAY, end=11),
        a_partition(accounted=None),
    ],
)
def test_partition_is_not_quiet_while_something_may_be_on_its_way(partition):
    assert START - 1 == a_reach(partition).known_to_us


def test_partition_of_which_nothing_was_stored_says_nothing_unless_something_is_left():
    other = a_partition(known=START + HOUR)
    empty = a_partition(offset=0, end=0, known=None, accounted=None)
    behind = a_partition(offset=0, end=1, known=None, accounted=None)

    assert START + HOUR - 1 == a_reach(empty, other).known_to_us
    assert [-1, -1] == [a_reach(behind, other).known_to_us, a_reach(empty).known_to_us]


def test_what_had_been_published_is_held_when_the_ends_of_then_are_reached():
    asked = a_reach(a_partition(offset=3, end=10), a_partition(offset=0, end=0, known=None))
    short = a_reach(a_partition(offset=9, end=50), a_partition(offset=0, end=7, known=None))
    enough = a_reach(a_partition(offset=10, end=60), a_partition(offset=0, end=9, known=None))

    assert [False, True] == [each.holds_published(asked) for each in (short, enough)]


@pytest.mark.parametrize(
    ("partition", "said"),
    [
        (a_partition(offset=7, end=10), "3 published records are not archived yet"),
        (a_partition(offset=0, end=0, known=None), "nothing was published yet"),
        (a_partition(known=START + SECOND), "complete up to 2013-01-01 00:26:40 UTC"),
    ],
)
def test_reach_says_what_it_waits_for(partition, said):
    assert said in a_reach(partition).waits_for


def test_moment_beyond_the_skew_of_clocks_is_refused():
    check_not_to_come("until_us", START + CLOCK_SKEW_US, START)
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        check_not_to_come("until_us", START + CLOCK_SKEW_US + 1, START)
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        check_not_to_come("until_us", 2**62, START)

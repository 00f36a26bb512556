# SPDX-License-Identifier: Apache-2.0
"""What a group is told: each change once, one commit at a time, a refusal again."""

import pytest
from confluent_kafka import KafkaError

from headrace_kit import backoff
from headrace_kit.kafka import Partition
from headrace_kit.offset_commits import OffsetCommits

A, B = Partition("a", 0), Partition("b", 0)
REFUSED = KafkaError(KafkaError.REBALANCE_IN_PROGRESS)


@pytest.fixture
def commits(monkeypatch):
    monkeypatch.setattr(backoff, "FIRST_S", 0.0)
    return OffsetCommits()


def told(commits, *, held=(A, B)):
    sent = commits.next()
    commits.settle(None, held)
    return sent


def test_offset_is_told_once(commits):
    commits.want_changed({A: 5})

    assert {A: 5} == told(commits)
    commits.want_changed({A: 5, B: 1})
    assert {B: 1} == told(commits)


def test_one_commit_is_on_its_way_at_a_time(commits):
    commits.want_changed({A: 5})
    commits.next()
    commits.want_changed({A: 6})

    assert {} == commits.next()
    commits.settle(None, [A])
    assert {A: 6} == commits.next()


def test_refused_offset_is_told_again_unless_a_newer_one_came_or_it_is_held_no_more(commits):
    commits.want_changed({A: 5, B: 1, Partition("gone", 0): 7})
    commits.next()
    commits.want_changed({A: 6})
    commits.settle(REFUSED, [A, B])

    assert {A: 6, B: 1} == commits.next()


def test_partition_that_comes_back_is_told_of_as_if_it_never_was(commits):
    commits.want_changed({A: 5})
    told(commits)
    commits.forget([A])
    commits.want_changed({A: 5})

    assert {A: 5} == told(commits)
    commits.want_anew([A])
    assert {A: 0} == told(commits)

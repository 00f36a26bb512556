# SPDX-License-Identifier: Apache-2.0
"""One apply changes what a group reads once, however many topics it defines."""

from types import SimpleNamespace

import pytest

from headrace_kit import consume, reader
from headrace_kit.consume import ConsumeLoop
from headrace_kit.gathered_topics import GATHER_S_MAX, QUIET_S, GatheredTopics
from headrace_kit.testing import MemoryPublisher


class FakeConsumer:
    """Stands for Kafka's client, and keeps what it was asked to read."""

    def __init__(self, settings):
        self.subscriptions = []

    def subscribe(self, topics, **callbacks):
        self.subscriptions.append(topics)

    def unsubscribe(self):
        self.subscriptions.append([])

    def consume(self, records_max, wait_s):
        return []

    def resume(self, partitions):
        pass


class Member:
    """A loop whose time and ticks are the test's."""

    def __init__(self, monkeypatch):
        self.now_s, self.more_to_come = 100.0, False
        monkeypatch.setattr(reader, "Consumer", FakeConsumer)
        monkeypatch.setattr(reader, "await_broker", lambda *asked: None)
        monkeypatch.setattr(consume, "GatheredTopics", self.gathered)
        idle = SimpleNamespace(positions=None, handle=None, idle=lambda: None)
        self.loop = ConsumeLoop(
            bootstrap="unused",
            group="gathering",
            handler=idle,
            dead_letters=MemoryPublisher(),
            service="sim",
            more_to_come=lambda: self.more_to_come,
        )
        self.loop._reader.open()

    def gathered(self, **fields):
        return GatheredTopics(monotonic_s=lambda: self.now_s, **fields)

    def tick(self, after_s=0.0):
        self.now_s += after_s
        self.loop._tick()

    def subscriptions(self):
        return self.loop._reader._consumer.subscriptions


@pytest.fixture
def member(monkeypatch):
    return Member(monkeypatch)


def test_topics_that_come_together_change_the_subscription_once(member):
    for topics in (["a"], ["a", "b"], ["a", "b", "c"]):
        member.loop.subscribe(topics)
        member.tick(after_s=QUIET_S / 2)
    assert [] == member.subscriptions()

    member.tick(after_s=QUIET_S)
    assert [["a", "b", "c"]] == member.subscriptions()


def test_topics_that_go_together_change_the_subscription_once(member):
    member.loop.subscribe(["a", "b", "c"])
    member.tick(after_s=QUIET_S)

    for topics in (["a", "b"], ["a"], []):
        member.loop.subscribe(topics)
        member.tick(after_s=QUIET_S / 2)
    member.tick(after_s=QUIET_S)

    assert [["a", "b", "c"], []] == member.subscriptions()


def test_topics_that_never_stop_coming_are_taken_up_in_a_bounded_time(member):
    for count in range(2 * int(GATHER_S_MAX / QUIET_S)):
        member.loop.subscribe([f"t{number}" for number in range(count + 1)])
        member.tick(after_s=QUIET_S * 0.9)

    assert 1 == len(member.subscriptions())


def test_topic_that_goes_waits_for_none_that_comes(member):
    member.loop.subscribe(["a", "b"])
    member.tick(after_s=QUIET_S)

    member.more_to_come = True
    member.loop.subscribe(["b", "c"])
    member.tick(after_s=QUIET_S)
    assert [["a", "b"], ["b"]] == member.subscriptions()

    member.more_to_come = False
    member.tick()
    assert [["a", "b"], ["b"], ["b", "c"]] == member.subscriptions()


def test_topic_that_comes_and_goes_meanwhile_changes_nothing(member):
    member.loop.subscribe(["a"])
    member.tick(after_s=QUIET_S)

    member.loop.subscribe(["a", "b"])
    member.tick()
    member.loop.subscribe(["a"])
    member.tick(after_s=QUIET_S)

    assert [["a"]] == member.subscriptions()

# SPDX-License-Identifier: Apache-2.0
"""What Kafka says of groups, and what is asked of a silent one: each question goes with its client,
and none is timed out in it.

What the real client does when one is: it ends the process (see `COORDINATOR_TIMEOUT_S`).
"""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import ClassVar

import pytest
from confluent_kafka import KafkaError, KafkaException

from headrace.errors import Unavailable
from headrace_kit import offsets
from headrace_kit.offsets import committed_offsets, group_assignments, group_members

GROUP, TOPIC = "group", "raw.sim.v1"
# What librdkafka takes at most; no wait of ours comes near.
LONGEST_S = 3_600.0
THIS_TOPIC, ANOTHER_TOPIC = "J0hVaBPvQ1GRd1vPZGvTgA", "0-fMzT2kQf6Yq_pB9n3w1g"


class SilentAdmin:
    """Knows the topics and never finds the coordinator of a group."""

    made: ClassVar[list[SilentAdmin]] = []

    def __init__(self, settings):
        self.timeouts_s = []
        self.made.append(self)

    def describe_topics(self, topics, *, request_timeout):
        answer = Future()
        answer.set_result(SimpleNamespace(topic_id="id", partitions=[SimpleNamespace(id=0)]))
        return {TOPIC: answer}

    def describe_consumer_groups(self, asked, *, request_timeout):
        self.timeouts_s.append(request_timeout)
        return {GROUP: Future()}


class SilentConsumer:
    """Never finds the coordinator of its group."""

    made: ClassVar[list[SilentConsumer]] = []

    def __init__(self, settings):
        self.group = settings["group.id"]
        self.made.append(self)

    def committed(self, partitions, *, timeout):
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))


@pytest.fixture
def admins(monkeypatch):
    monkeypatch.setattr(offsets, "AdminClient", SilentAdmin)
    monkeypatch.setattr(offsets, "REQUEST_TIMEOUT_S", 0.01)
    monkeypatch.setattr(SilentAdmin, "made", [])
    monkeypatch.setattr(offsets, "Consumer", SilentConsumer)
    monkeypatch.setattr(SilentConsumer, "made", [])
    offsets._admin.cache_clear()
    offsets._outsider.cache_clear()
    yield SilentAdmin.made
    offsets._admin.cache_clear()
    offsets._outsider.cache_clear()


@pytest.mark.parametrize(
    "ask",
    [
        lambda: group_members("unused", GROUP, timeout_s=0.01),
        lambda: group_assignments("unused", GROUP, timeout_s=0.01),
    ],
)
def test_question_about_a_group_is_given_up_with_its_client_and_not_in_it(admins, ask):
    for _ in range(2):
        with pytest.raises(Unavailable, match="BROKER_UNAVAILABLE"):
            ask()

    assert [[LONGEST_S], [LONGEST_S]] == [each.timeouts_s for each in admins]


def test_question_about_offsets_that_is_not_answered_goes_with_its_client(admins):
    for _ in range(2):
        with pytest.raises(Unavailable, match="BROKER_UNAVAILABLE"):
            committed_offsets("unused", GROUP, [TOPIC])

    assert [GROUP, GROUP] == [each.group for each in SilentConsumer.made]


def test_coordinator_that_is_not_found_yet_is_waited_for(admins, monkeypatch):
    answers = [
        KafkaException(KafkaError(code))
        for code in (
            KafkaError.COORDINATOR_NOT_AVAILABLE,
            KafkaError.NOT_COORDINATOR,
        )
    ]

    def committed(self, partitions, *, timeout):
        if answers:
            raise answers.pop()
        return [NotedCommit(None)]

    monkeypatch.setattr(SilentConsumer, "committed", committed)
    monkeypatch.setattr(offsets, "REQUEST_TIMEOUT_S", 60.0)
    monkeypatch.setattr(offsets, "COORDINATOR_INTERVAL_S", 0.0)

    assert {(TOPIC, 0): 7} == committed_offsets("unused", GROUP, [TOPIC])
    assert 1 == len(SilentConsumer.made)


class NotedCommit:
    """A committed offset with what its client noted beside it, as the real client tells it."""

    topic, partition, offset = TOPIC, 0, 7

    def __init__(self, noted: bytes | None):
        self._noted = noted

    @property
    def metadata(self):
        return self._noted if self._noted is None else self._noted.decode()


@pytest.mark.parametrize(
    ("noted", "counts"),
    [
        (None, True),
        (b"", True),
        (THIS_TOPIC.encode(), True),
        (ANOTHER_TOPIC.encode(), False),
        (b"Ghk7YdXHS8WrW49eDH/ipg", False),  # as librdkafka tells ids
        (b"Dps+XkrkQbaEMzaASmEcdA", False),
        (b"AgAAAZq3yJ0=", True),
        (b"no text \x9a", True),
    ],
)
def test_commit_counts_unless_it_names_another_topic(monkeypatch, noted, counts):
    described = Future()
    told = SimpleNamespace(topic_id=THIS_TOPIC, partitions=[SimpleNamespace(id=0)])
    described.set_result(told)
    admin = SimpleNamespace(describe_topics=lambda *_, **__: {TOPIC: described})
    monkeypatch.setattr(offsets, "_admin", lambda _: admin)
    outsider = SimpleNamespace(committed=lambda *_, **__: [NotedCommit(noted)])
    monkeypatch.setattr(offsets, "_outsider", lambda *_: outsider)

    assert committed_offsets("unused", GROUP, [TOPIC]) == ({(TOPIC, 0): 7} if counts else {})

# SPDX-License-Identifier: Apache-2.0
"""How far topics reach and how far groups have come."""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec, TopicDescription

from headrace.errors import TOPIC_MISSING, Unavailable
from headrace.missing_topics import MISSING_TOPIC
from headrace_kit.kafka import Partition, client_settings

REQUEST_TIMEOUT_S = 10.0
# A question to a group's coordinator whose deadline passes while librdkafka looks for it aborts the
# process once it is found (confluentinc/librdkafka#4605, still so in 2.16). So librdkafka is given
# the longest it takes; we wait as long as we want, and what is unanswered ends with its client.
COORDINATOR_TIMEOUT_S = 3_600.0
COORDINATOR_INTERVAL_S = 0.1
COORDINATOR_MOVES = (
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
)
# 16 bytes by Base64: librdkafka writes them with + and /, Kafka's own tools with - and _.
TOPIC_ID = re.compile(r"[A-Za-z0-9+/_-]{22}")


@dataclass(frozen=True, slots=True)
class DescribedTopic:
    """A topic that was made again under its old name has another id."""

    id: str
    partitions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GroupMember:
    """Who is in a consumer group, and what it has been given."""

    id: str
    client_id: str
    partitions: frozenset[Partition]


@lru_cache(maxsize=4)
def _admin(bootstrap: str) -> AdminClient:
    """One admin client per cluster while it is answered: a new one costs a connection."""
    return AdminClient(client_settings(bootstrap, "headrace-offsets"))


@lru_cache(maxsize=4)
def _outsider(bootstrap: str, group: str) -> Consumer:
    """Asks what a group has committed, and never joins it.

    An admin client has no group of its own, and ends the process (SIGSEGV) where the broker that it
    asks is not the coordinator, or not yet (confluentinc/librdkafka#5040).
    """
    return Consumer(
        client_settings(bootstrap, "headrace-offsets")
        | {"group.id": group, "enable.auto.commit": False, "isolation.level": "read_uncommitted"}
    )


def _unanswered(bootstrap: str, **named: str) -> Unavailable:
    """The next question has a new client: one whose broker came back may never again find the
    coordinator of a group.
    """
    _admin.cache_clear()
    _outsider.cache_clear()
    return Unavailable("BROKER_UNAVAILABLE", bootstrap=bootstrap, **named)


def topic_partitions(
    bootstrap: str, topics: Collection[str], *, timeout_s: float = REQUEST_TIMEOUT_S
) -> list[Partition]:
    """Every partition of these topics; raises Unavailable TOPIC_MISSING or BROKER_UNAVAILABLE."""
    known = described_topics(bootstrap, topics, timeout_s=timeout_s)
    return [Partition(topic, number) for topic in topics for number in known[topic].partitions]


def partitions_by_topic(bootstrap: str, topics: Collection[str]) -> dict[str, list[int]]:
    """Of those topics that are there; no other is asked for. Raises Unavailable."""
    found = _described(bootstrap, topics, REQUEST_TIMEOUT_S)
    return {topic: list(each.partitions) for topic, each in found.items()}


def described_topics(
    bootstrap: str, topics: Collection[str], *, timeout_s: float = REQUEST_TIMEOUT_S
) -> dict[str, DescribedTopic]:
    """All of these topics; raises Unavailable TOPIC_MISSING or BROKER_UNAVAILABLE."""
    known = _described(bootstrap, topics, timeout_s)
    for topic in topics:
        if topic not in known:
            raise Unavailable("TOPIC_MISSING", topic=topic)
    return known


def ask_for_topics(
    bootstrap: str, topics: Collection[str], *, timeout_s: float
) -> dict[str, Future[TopicDescription]]:
    """Waits for nothing: the answers, or KafkaException, come within the time."""
    asked = TopicCollection(list(dict.fromkeys(topics)))
    answers: dict[str, Future[TopicDescription]] = _admin(bootstrap).describe_topics(
        asked, request_timeout=timeout_s
    )
    return answers


def _described(
    bootstrap: str, topics: Collection[str], timeout_s: float
) -> dict[str, DescribedTopic]:
    if not topics:
        return {}
    found = {}
    for topic, answer in ask_for_topics(bootstrap, topics, timeout_s=timeout_s).items():
        try:
            told = answer.result(timeout_s)
            numbers = sorted(each.id for each in told.partitions)
            found[topic] = DescribedTopic(str(told.topic_id), tuple(numbers))
        except (KafkaException, TimeoutError) as err:
            if not _missing(err):
                raise _unanswered(bootstrap) from err
    return found


def _missing(err: Exception) -> bool:
    return isinstance(err, KafkaException) and err.args[0].code() in MISSING_TOPIC


def topic_end_offsets(bootstrap: str, topics: Collection[str]) -> dict[Partition, int]:
    """The next offset that each partition of these topics will give to a record."""
    return _offsets(bootstrap, topics, OffsetSpec.latest())


def topic_begin_offsets(bootstrap: str, topics: Collection[str]) -> dict[Partition, int]:
    """The first offset that each partition still has; its end when retention left nothing."""
    return _offsets(bootstrap, topics, OffsetSpec.earliest())


def _offsets(bootstrap: str, topics: Collection[str], spec: OffsetSpec) -> dict[Partition, int]:
    asked: dict[Any, OffsetSpec] = {
        TopicPartition(*partition): spec for partition in topic_partitions(bootstrap, topics)
    }
    if not asked:
        return {}
    answers = _admin(bootstrap).list_offsets(
        asked,
        isolation_level=IsolationLevel.READ_UNCOMMITTED,
        request_timeout=REQUEST_TIMEOUT_S,
    )
    try:
        return {
            Partition(asked.topic, asked.partition): answer.result(REQUEST_TIMEOUT_S).offset
            for asked, answer in answers.items()
        }
    except (KafkaException, TimeoutError) as err:
        raise _unanswered(bootstrap) from err


def committed_offsets(bootstrap: str, group: str, topics: Collection[str]) -> dict[Partition, int]:
    """The next offset that the group will read; a partition without a commit is absent.

    So is one whose commit names another topic id: it came late, and the topic was made again. What
    clients that are not ours note beside an offset names no topic.
    """
    described = described_topics(bootstrap, topics)
    asked = [TopicPartition(topic, n) for topic in topics for n in described[topic].partitions]
    if not asked:
        return {}
    return {
        Partition(each.topic, each.partition): each.offset
        for each in _committed(bootstrap, group, asked)
        if each.offset >= 0 and _named_topic(each) in ("", described[each.topic].id)
    }


def _committed(bootstrap: str, group: str, asked: list[TopicPartition]) -> list[TopicPartition]:
    """A cluster that had no group yet finds this one a coordinator first."""
    end_s = time.monotonic() + REQUEST_TIMEOUT_S
    while True:
        left_s = end_s - time.monotonic()
        try:
            return _outsider(bootstrap, group).committed(asked, timeout=max(left_s, 0.0))
        except KafkaException as err:
            if left_s <= 0.0 or err.args[0].code() not in COORDINATOR_MOVES:
                raise _unanswered(bootstrap, group=group) from err
        time.sleep(COORDINATOR_INTERVAL_S)


def _named_topic(committed: TopicPartition) -> str:
    """The id of a topic that was noted beside an offset."""
    try:
        noted = committed.metadata or ""
    except UnicodeDecodeError:
        return ""
    return noted if TOPIC_ID.fullmatch(noted) else ""


def was_read(bootstrap: str, group: str, topic: str) -> bool:
    """Whether the group has come beyond a beginning of the topic; Kafka forgets it with the topic.

    Raises Unavailable BROKER_UNAVAILABLE.
    """
    try:
        return any(committed_offsets(bootstrap, group, [topic]).values())
    except Unavailable as err:
        if err.reason == TOPIC_MISSING:
            return False
        raise


def group_members(
    bootstrap: str, group: str, *, timeout_s: float = REQUEST_TIMEOUT_S
) -> list[GroupMember]:
    """Of a consumer group; raises Unavailable BROKER_UNAVAILABLE."""
    asked = _admin(bootstrap).describe_consumer_groups(
        [group], request_timeout=COORDINATOR_TIMEOUT_S
    )
    try:
        members = asked[group].result(timeout_s).members
    except (KafkaException, TimeoutError) as err:
        raise _unanswered(bootstrap, group=group) from err
    return [
        GroupMember(
            each.member_id,
            each.client_id,
            frozenset(Partition(p.topic, p.partition) for p in each.assignment.topic_partitions),
        )
        for each in members
    ]


def group_assignments(
    bootstrap: str, group: str, *, timeout_s: float = REQUEST_TIMEOUT_S
) -> dict[str, frozenset[Partition]]:
    """What each member of a consumer group has been given, by member id.

    Raises Unavailable BROKER_UNAVAILABLE.
    """
    members = group_members(bootstrap, group, timeout_s=timeout_s)
    return {each.id: each.partitions for each in members}

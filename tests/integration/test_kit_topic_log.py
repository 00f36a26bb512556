# SPDX-License-Identifier: Apache-2.0
"""A topic looked into on a real broker: from any place to the end that it had."""

from __future__ import annotations

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.errors import Unavailable
from headrace_kit.kafka import Message, Partition
from headrace_kit.offsets import partitions_by_topic
from headrace_kit.topic_log import KafkaTopicLog

pytestmark = pytest.mark.integration

REQUEST_TIMEOUT_S = 15.0


@pytest.fixture
def log(kafka_server):
    return KafkaTopicLog(kafka_server)


@pytest.fixture
def topic(new_topic, publisher):
    """A topic of 120 records in one partition."""
    name = new_topic()
    publisher.publish([Message(name, b"key", b"%d" % number) for number in range(120)])
    return name


def offsets(records):
    return [record.offset for record in records]


def test_records_are_read_from_a_place_to_the_end(log, topic):
    assert [*range(100, 120)] == offsets(log.read(Partition(topic, 0), 100))
    assert [] == offsets(log.read(Partition(topic, 0), 120))
    assert [0] == log.partitions(topic)


def test_record_is_found_by_its_place(log, topic):
    found = log.at(Partition(topic, 0), 77)

    assert b"77" == (found and found.value)
    assert log.at(Partition(topic, 0), 120) is None


def test_records_are_read_since_a_time(log, topic):
    first, *_, last = log.read(Partition(topic, 0))

    since = offsets(log.read(Partition(topic, 0), since_ms=last.timestamp_ms))

    assert since
    assert 119 == since[-1]
    assert [] == offsets(log.read(Partition(topic, 0), since_ms=last.timestamp_ms + 60_000))
    assert 120 == len(offsets(log.read(Partition(topic, 0), since_ms=first.timestamp_ms)))


def test_what_retention_removed_is_passed_over(log, topic, kafka_server):
    admin = AdminClient({"bootstrap.servers": kafka_server, "log_level": 0})
    for deleted in admin.delete_records([TopicPartition(topic, 0, 50)]).values():
        deleted.result(REQUEST_TIMEOUT_S)

    assert [*range(50, 120)] == offsets(log.read(Partition(topic, 0)))
    assert log.at(Partition(topic, 0), 49) is None


def test_partition_that_is_not_there_holds_nothing(log, topic):
    """A topic may have been made again with fewer, and a dead letter points to one that is gone."""
    assert log.at(Partition(topic, 7), 3) is None
    assert [] == offsets(log.read(Partition(topic, 7), since_ms=1))
    assert log.at(Partition("test.no-such.v1", 0), 3) is None


def test_missing_topic_is_named(log):
    with pytest.raises(Unavailable, match="TOPIC_MISSING"):
        log.partitions("test.no-such.v1")


def test_partitions_are_told_of_those_topics_that_are_there(kafka_server, new_topic):
    topic = new_topic(partitions=2)

    assert {topic: [0, 1]} == partitions_by_topic(kafka_server, [topic, "test.absent.v1"])
    assert {} == partitions_by_topic(kafka_server, [])

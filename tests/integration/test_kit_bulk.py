# SPDX-License-Identifier: Apache-2.0
"""The bulk publisher on a real Kafka: settled means delivered, and a failure is told."""

from __future__ import annotations

import pytest

from headrace.errors import Invalid, Unavailable
from headrace.local.ports import pick_ports
from headrace_kit import bulk
from headrace_kit.bulk import KafkaBulkPublisher
from headrace_kit.kafka import MESSAGE_BYTES_MAX
from headrace_kit.offsets import topic_end_offsets

pytestmark = pytest.mark.integration


@pytest.fixture
def sender(kafka_server):
    made = KafkaBulkPublisher(kafka_server, client_id="bulk")
    made.start()
    yield made
    made.stop(5.0)


def some(count, size=10):
    return [(b"key-%d" % number, b"x" * size) for number in range(count)]


def delivered(bootstrap, topic):
    return sum(topic_end_offsets(bootstrap, [topic]).values())


def test_what_is_settled_is_delivered(kafka_server, new_topic, sender):
    topic = new_topic()

    sender.queue(topic, some(25_000))
    sender.settle()

    assert 25_000 == delivered(kafka_server, topic)


def test_more_than_the_queue_holds_is_sent_too(kafka_server, new_topic, monkeypatch):
    monkeypatch.setattr(bulk, "QUEUE_RECORDS_MAX", 1_000)
    sender, topic = KafkaBulkPublisher(kafka_server, client_id="small"), new_topic()

    sender.queue(topic, some(5_000))
    sender.stop(10.0)

    assert 5_000 == delivered(kafka_server, topic)


def test_missing_topic_is_told_and_the_next_ones_are_delivered(kafka_server, new_topic, sender):
    topic = new_topic()
    sender.queue("nowhere", some(3))
    with pytest.raises(Unavailable, match="TOPIC_MISSING"):
        sender.settle()

    sender.queue(topic, some(3))
    sender.settle()

    assert 3 == delivered(kafka_server, topic)


def test_message_that_kafka_would_refuse_is_refused(new_topic, sender):
    with pytest.raises(Invalid, match="TOO_LARGE"):
        sender.queue(new_topic(), some(1, size=2 * MESSAGE_BYTES_MAX))


def test_broker_that_is_away_is_an_unknown_outcome():
    (port,) = pick_ports(1)
    sender = KafkaBulkPublisher(f"127.0.0.1:{port}", client_id="away")
    sender.queue("anything", some(3))

    with pytest.raises(Unavailable, match="DELIVERY_UNKNOWN"):
        sender.settle(timeout_s=0.2)

# SPDX-License-Identifier: Apache-2.0
"""What a follower takes a topic for at its start; the rest needs a broker (test_kit_consume)."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace

from confluent_kafka import KafkaError

from headrace_kit import follow, offsets, topic_ids
from headrace_kit.offsets import DescribedTopic

TOPIC = "test.table.v1"


class EmptyTopicConsumer:
    """At the end of all that it is given."""

    def __init__(self, settings):
        self.assigned = []

    def list_topics(self, topic, timeout):
        return None

    def get_watermark_offsets(self, partition, timeout):
        return 0, 0

    def assign(self, partitions):
        self.assigned = [each.partition for each in partitions]

    def consume(self, records_max, wait_s):
        return [
            SimpleNamespace(
                error=lambda: KafkaError(KafkaError._PARTITION_EOF),
                partition=lambda number=number: number,
                offset=lambda: 0,
            )
            for number in self.assigned
        ]

    def close(self):
        return None


def test_partitions_are_of_the_topic_whose_id_is_told(monkeypatch):
    """It is made again, with fewer of them, just when it was described."""
    described = [DescribedTopic("first", (0, 1)), DescribedTopic("second", (0,))]
    monkeypatch.setattr(offsets, "_described", lambda *_: {TOPIC: described.pop(0)})
    monkeypatch.setattr(topic_ids, "ask_for_topics", lambda *_, **__: {TOPIC: Future()})
    monkeypatch.setattr(follow, "Consumer", EmptyTopicConsumer)
    follower = follow.TableFollower(
        bootstrap="none:1", topic=TOPIC, on_record=lambda _: None, service="test-follow"
    )
    follower.start()

    assert ("first", [0, 1]) == (follower.topic_id, follower._consumer.assigned)
    follower.stop(5.0)

# SPDX-License-Identifier: Apache-2.0
"""What the reader tells of its partitions, over a consumer that stands for Kafka's client.

What the real client does to it is in tests/integration/test_kit_consume.py.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, TopicPartition

from headrace_kit import reader
from headrace_kit.kafka import Partition
from headrace_kit.reader import GroupReader

TOPIC = "raw.sim.v1"
PARTITION = Partition(TOPIC, 0)


class SimulatedConsumer:
    """Gives one partition at once, then what a test puts in `received`."""

    def __init__(self, settings):
        self.beginning, self.received = 0, []

    def subscribe(self, topics, *, on_assign, **rest):
        on_assign(self, [TopicPartition(*PARTITION)])

    def incremental_assign(self, partitions):
        pass

    def pause(self, partitions):
        pass

    def get_watermark_offsets(self, partition, timeout):
        return self.beginning, 100

    def consume(self, records_max, wait_s):
        given, self.received = self.received, []
        return given


def out_of_range(offset):
    return SimpleNamespace(
        error=lambda: KafkaError(KafkaError.OFFSET_OUT_OF_RANGE),
        topic=lambda: TOPIC,
        partition=lambda: 0,
        offset=lambda: offset,
    )


@pytest.fixture
def group_reader(monkeypatch):
    monkeypatch.setattr(reader, "Consumer", SimulatedConsumer)
    monkeypatch.setattr(reader, "await_broker", lambda *asked: None)
    owner = SimpleNamespace(finish=lambda _: None, forget=lambda _: None)
    made = GroupReader("unused", "group", owner)
    made.open()
    made.subscribe(frozenset({TOPIC}))
    return made


def lose(group_reader, offset):
    """The topic was made again with fewer records than were read of it."""
    group_reader.place([PARTITION], {PARTITION: offset})
    group_reader._consumer.received = [out_of_range(offset)]
    group_reader.read(10, 0.0)


def test_lost_partition_that_is_placed_anew_is_lost_no_more(group_reader):
    lose(group_reader, 7)
    assert [f"OFFSET_LOST {TOPIC}[0]"] == group_reader.troubles()
    group_reader.hold([TOPIC])
    group_reader.hold([])
    group_reader.place([PARTITION], {})

    assert [] == group_reader.troubles()
    assert [PARTITION] == group_reader.placed()


def test_partition_that_is_placed_before_its_beginning_stays_lost(group_reader):
    lose(group_reader, 7)
    group_reader.hold([TOPIC])
    group_reader.hold([])
    group_reader._consumer.beginning = 9
    group_reader.place([PARTITION], {PARTITION: 7})

    assert [f"OFFSET_LOST {TOPIC}[0]"] == group_reader.troubles()
    assert [] == group_reader.placed()

# SPDX-License-Identifier: Apache-2.0
"""What the reader tells of its partitions, over a consumer that stands for Kafka's client.

What the real client does to it is in tests/integration/test_kit_consume.py.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from headrace.errors import Unavailable
from headrace_kit import reader
from headrace_kit.kafka import Partition
from headrace_kit.reader import GroupReader

TOPIC = "raw.sim.v1"
PARTITION = Partition(TOPIC, 0)
OTHER = Partition("raw.other.v1", 0)


class SimulatedConsumer:
    """Gives one partition at once, then what a test puts in `received`.

    It answers `questions_max` questions, and knows no topic that is `gone`.
    """

    def __init__(self, settings):
        self.beginning, self.received = 0, []
        self.questions_max, self.gone = 1_000, set()

    def subscribe(self, topics, *, on_assign, **rest):
        on_assign(self, [TopicPartition(*PARTITION)])

    def incremental_assign(self, partitions):
        pass

    def pause(self, partitions):
        pass

    def offsets_for_times(self, partitions, timeout):
        assert {OFFSET_BEGINNING} == {each.offset for each in partitions}
        if self.questions_max == 0:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        self.questions_max -= 1
        return [self._answer(each) for each in partitions]

    def _answer(self, asked):
        gone = asked.topic in self.gone
        return SimpleNamespace(
            topic=asked.topic,
            partition=asked.partition,
            offset=self.beginning,
            error=KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART) if gone else None,
        )

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


def test_many_partitions_are_placed_by_one_question(group_reader):
    many = [Partition(TOPIC, number) for number in range(400)]
    group_reader._consumer.questions_max = 1
    group_reader.place(many, {})

    assert many == group_reader.placed()


def test_silent_kafka_is_told_with_what_it_was_asked(group_reader):
    group_reader._consumer.questions_max = 0
    with pytest.raises(Unavailable, match="BROKER_UNAVAILABLE") as caught:
        group_reader.place([PARTITION], {})

    assert "first offsets" == caught.value.metadata["asked"]
    assert [PARTITION] == group_reader.unplaced()


def test_topic_that_is_gone_is_told_and_the_others_are_placed(group_reader):
    group_reader._consumer.gone = {OTHER.topic}
    with pytest.raises(Unavailable, match="TOPIC_MISSING"):
        group_reader.place([OTHER, PARTITION], {})

    assert [PARTITION] == group_reader.placed()
    assert [f"TOPIC_MISSING {OTHER.topic}"] == group_reader.troubles()

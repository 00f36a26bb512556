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

    It answers `questions_max` questions, and knows no topic that is `gone`; while it is `silent` it
    tells nothing of topics.
    """

    def __init__(self, settings):
        self.beginning, self.received = 0, []
        self.questions_max, self.gone = 1_000, set()
        self.sought, self.refuses, self.silent = [], False, False

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
        if self.refuses and any(each.topic in self.gone for each in partitions):
            raise KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION))
        return [self._answer(each) for each in partitions]

    def _answer(self, asked):
        gone = asked.topic in self.gone
        return SimpleNamespace(
            topic=asked.topic,
            partition=asked.partition,
            offset=self.beginning,
            error=KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART) if gone else None,
        )

    def list_topics(self, topic, timeout):
        if self.silent:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        error = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART) if topic in self.gone else None
        partitions = {} if error else {PARTITION.number: None}
        return SimpleNamespace(topics={topic: SimpleNamespace(error=error, partitions=partitions)})

    def resume(self, partitions):
        self.sought = []

    def seek(self, partition):
        self.sought.append(Partition(partition.topic, partition.partition))

    def get_watermark_offsets(self, partition, timeout_s):
        return 0, 0

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


@pytest.fixture(params=[False, True], ids=["told by partition", "refused as a whole"])
def one_gone(group_reader, request):
    """Two partitions that wait to be placed; the topic of one was deleted meanwhile."""
    group_reader._on_assign(group_reader._consumer, [TopicPartition(*OTHER)])
    group_reader._consumer.refuses = request.param
    group_reader._consumer.gone = {OTHER.topic}
    group_reader.place(group_reader.unplaced(), {})
    return group_reader


def test_topic_that_is_gone_is_told_and_the_others_are_placed(one_gone):
    assert [PARTITION] == one_gone.placed()
    assert [f"TOPIC_MISSING {OTHER.topic}"] == one_gone.troubles()


def test_topic_of_which_kafka_tells_nothing_is_not_called_missing(group_reader):
    group_reader._on_assign(group_reader._consumer, [TopicPartition(*OTHER)])
    kafka = group_reader._consumer
    kafka.refuses, kafka.silent, kafka.gone = True, True, {OTHER.topic}
    with pytest.raises(Unavailable, match="BROKER_UNAVAILABLE"):
        group_reader.place(group_reader.unplaced(), {})

    assert [] == group_reader.troubles()
    kafka.silent = False
    group_reader.place(group_reader.unplaced(), {})
    assert [PARTITION] == group_reader.placed()
    kafka.silent = True
    group_reader.look_for_missing()
    assert [f"TOPIC_MISSING {OTHER.topic}"] == group_reader.troubles()


def test_partition_of_a_missing_topic_waits_until_that_is_there(one_gone):
    assert [] == one_gone.unplaced()
    assert not one_gone.settled(frozenset({TOPIC}))

    one_gone._consumer.gone = set()
    one_gone.look_for_missing()
    assert [OTHER] == one_gone.unplaced()


def test_partition_that_is_put_off_waits_for_the_other_topic(group_reader):
    group_reader._consumer.gone = {OTHER.topic}
    group_reader.put_off(TOPIC, OTHER.topic)
    assert [] == group_reader.unplaced()
    assert [f"TOPIC_MISSING {OTHER.topic}"] == group_reader.troubles()

    group_reader._consumer.gone = set()
    group_reader.look_for_missing()
    assert [PARTITION] == group_reader.unplaced()


def test_reading_goes_on_without_a_question_for_what_is_missing(group_reader):
    group_reader._on_assign(group_reader._consumer, [TopicPartition(*OTHER)])
    group_reader.place([PARTITION, OTHER], {})
    group_reader.put_off(OTHER.topic, OTHER.topic)
    group_reader.resume()
    assert [PARTITION] == group_reader._consumer.sought

    group_reader.look_for_missing()
    group_reader.resume()
    assert {PARTITION, OTHER} == {*group_reader._consumer.sought}

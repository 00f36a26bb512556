# SPDX-License-Identifier: Apache-2.0
"""What the reader tells of its partitions, over a consumer that stands for Kafka's client.

What the real client does to it is in tests/integration/test_kit_consume.py.
"""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from headrace.errors import Unavailable
from headrace_kit import reader, topic_ids
from headrace_kit.kafka import Partition
from headrace_kit.reader import GroupReader

TOPIC = "raw.sim.v1"
PARTITION = Partition(TOPIC, 0)
OTHER = Partition("raw.other.v1", 0)


class SimulatedConsumer:
    """Gives one partition at once, then what a test puts in `received`.

    It answers `questions_max` questions, and knows no topic that is `gone`; while it is `silent` it
    tells nothing of topics. What `ended` at a lost offset is moved by no seek.
    """

    def __init__(self, settings):
        self.beginning, self.received = 0, []
        self.questions_max, self.gone = 1_000, set()
        self.sought, self.refuses, self.silent, self.ended = [], False, False, set()

    def subscribe(self, topics, *, on_assign, **rest):
        on_assign(self, [TopicPartition(*PARTITION)])

    def incremental_assign(self, partitions):
        self.ended -= {Partition(each.topic, each.partition) for each in partitions}

    def incremental_unassign(self, partitions):
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
        if Partition(partition.topic, partition.partition) in self.ended:
            raise KafkaException(KafkaError(KafkaError._STATE))
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
    group_reader._consumer.received, group_reader._consumer.ended = (
        [out_of_range(offset)],
        {PARTITION},
    )
    group_reader.read(10, 0.0)


def test_lost_partition_that_is_placed_anew_is_lost_no_more(group_reader):
    lose(group_reader, 7)
    assert [f"OFFSET_LOST {TOPIC}[0]"] == group_reader.troubles()
    group_reader.hold([TOPIC])
    group_reader.hold([])
    group_reader.place([PARTITION], {})

    assert [] == group_reader.troubles()
    assert [PARTITION] == group_reader.placed()
    group_reader.resume()
    assert [PARTITION] == group_reader._consumer.sought


@pytest.fixture
def told(monkeypatch):
    """Ids of topics as Kafka has them by now; it answers at once."""
    ids = {TOPIC: "first"}

    def ask(bootstrap, topics, *, timeout_s):
        return {topic: answered(ids.get(topic)) for topic in topics}

    monkeypatch.setattr(topic_ids, "ASK_INTERVAL_S", 0.0)
    monkeypatch.setattr(topic_ids, "ask_for_topics", ask)
    monkeypatch.setattr(
        topic_ids,
        "described_topics",
        lambda _, topics, timeout_s: {each: SimpleNamespace(id=ids[each]) for each in topics},
    )
    return ids


def answered(topic_id):
    answer = Future()
    if topic_id is None:
        answer.set_exception(KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)))
    else:
        answer.set_result(SimpleNamespace(topic_id=topic_id))
    return answer


def look(group_reader):
    """Asks, and hears the answer."""
    for _ in range(2):
        group_reader.look_for_made_again()


@pytest.mark.parametrize("lost", [False, True])
def test_topic_that_has_another_id_is_placed_anew(group_reader, told, lost):
    assert {TOPIC: "first"} == group_reader.identify([TOPIC])
    if lost:
        lose(group_reader, 7)
    else:
        group_reader.place([PARTITION], {PARTITION: 7})
    look(group_reader)
    assert [PARTITION] == group_reader.placed()

    told[TOPIC] = "second"
    look(group_reader)
    assert [PARTITION] == group_reader.unplaced()
    group_reader.identify([TOPIC])
    group_reader.place([PARTITION], {})
    look(group_reader)
    assert [PARTITION] == group_reader.placed()
    group_reader.resume()
    assert ([], [PARTITION]) == (group_reader.troubles(), group_reader._consumer.sought)


def test_topic_that_nobody_identified_or_that_is_missing_is_none_made_again(group_reader, told):
    group_reader.place([PARTITION], {})
    told[TOPIC] = "second"
    look(group_reader)
    assert [PARTITION] == group_reader.placed()

    group_reader.identify([TOPIC])
    del told[TOPIC]
    look(group_reader)
    assert [PARTITION] == group_reader.placed()


def test_identified_topic_that_was_missing_is_placed_anew(group_reader, told):
    group_reader.identify([TOPIC])
    group_reader.place([PARTITION], {PARTITION: 7})
    group_reader.put_off(TOPIC, TOPIC)
    group_reader.look_for_missing()

    assert [PARTITION] == group_reader.unplaced()


def test_answer_that_never_comes_is_given_up(group_reader, told, monkeypatch):
    group_reader.identify([TOPIC])
    group_reader.place([PARTITION], {})
    with monkeypatch.context() as silent:
        silent.setattr(topic_ids, "ask_for_topics", lambda *_, **__: {TOPIC: Future()})
        look(group_reader)
    told[TOPIC] = "second"
    look(group_reader)
    assert [PARTITION] == group_reader.placed()

    monkeypatch.setattr(topic_ids, "ANSWER_S_MAX", 0.0)
    look(group_reader)
    look(group_reader)
    assert [PARTITION] == group_reader.unplaced()


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


def test_topic_that_is_put_off_again_is_not_asked_for_at_once(group_reader):
    for _ in range(2):
        group_reader.put_off(TOPIC, OTHER.topic)
        group_reader.look_for_missing()
    assert [] == group_reader.unplaced()  # though Kafka tells us that the other one is there

    group_reader._missing._looks[OTHER.topic].succeeded()
    group_reader.look_for_missing()
    group_reader.place(group_reader.unplaced(), {})
    group_reader.put_off(TOPIC, OTHER.topic)
    group_reader.unplace()
    group_reader.look_for_missing()
    assert [PARTITION] == group_reader.unplaced()


def test_topic_that_is_missing_for_long_slows_no_look_for_another(group_reader):
    group_reader._consumer.gone = {OTHER.topic}
    group_reader.put_off(OTHER.topic, OTHER.topic)
    group_reader.look_for_missing()
    for _ in range(10):
        group_reader._missing._looks[OTHER.topic].failed()

    group_reader.put_off(TOPIC, TOPIC)
    group_reader.look_for_missing()
    assert [PARTITION] == group_reader.unplaced()
    assert [f"TOPIC_MISSING {OTHER.topic}"] == group_reader.troubles()


def test_reading_goes_on_without_a_question_for_what_is_missing(group_reader):
    group_reader._on_assign(group_reader._consumer, [TopicPartition(*OTHER)])
    group_reader.place([PARTITION, OTHER], {})
    group_reader.put_off(OTHER.topic, OTHER.topic)
    group_reader.resume()
    assert [PARTITION] == group_reader._consumer.sought

    group_reader.look_for_missing()
    group_reader.resume()
    assert {PARTITION, OTHER} == {*group_reader._consumer.sought}

# SPDX-License-Identifier: Apache-2.0
"""The publisher on a real broker: an answer is a delivery report, and nobody waits for another."""

from __future__ import annotations

import multiprocessing
import threading
import time

import pytest
from confluent_kafka import Consumer, TopicPartition

from headrace.errors import Busy, Invalid, Unavailable
from headrace_kit.kafka import KafkaPublisher, Message, Partition, to_record
from headrace_kit.offsets import topic_end_offsets

pytestmark = pytest.mark.integration


def java_partition(key, partitions):
    """Kafka's murmur2 (org.apache.kafka.common.utils.Utils), an independent reading."""
    h, mask = (0x9747B28C ^ len(key)) & 0xFFFFFFFF, 0xFFFFFFFF
    for i in range(0, len(key) // 4 * 4, 4):
        k = int.from_bytes(key[i : i + 4], "little") * 0x5BD1E995 & mask
        k = (k ^ k >> 24) * 0x5BD1E995 & mask
        h = (h * 0x5BD1E995 ^ k) & mask
    tail = key[len(key) // 4 * 4 :]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * 0x5BD1E995 & mask
    h = (h ^ h >> 13) * 0x5BD1E995 & mask
    return ((h ^ h >> 15) & 0x7FFFFFFF) % partitions


def read_all(bootstrap, topic, count):
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader"})
    partitions = consumer.list_topics(topic).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    records, deadline_s = [], time.monotonic() + 20
    while len(records) < count and time.monotonic() < deadline_s:
        records += [to_record(message) for message in consumer.consume(count, 0.2)]
    consumer.close()
    return records


def test_published_messages_are_stored_as_they_are(kafka_server, new_topic, publisher):
    topic = new_topic(1)
    publisher.publish([Message(topic, b"k", b"v", (("ce_id", b"1"),)), Message(topic, None, None)])

    first, second = read_all(kafka_server, topic, 2)

    assert (b"k", b"v", {"ce_id": b"1"}) == (first.key, first.value, first.headers)
    assert (None, None, {}) == (second.key, second.value, second.headers)


def test_keys_go_where_java_clients_send_them(kafka_server, new_topic, publisher):
    topic, keys = new_topic(4), [b"21", b"foobar", b"", b"UA", "Größe".encode(), b"N14228"]
    publisher.publish([Message(topic, key, b"") for key in keys])

    placed = {record.key: record.partition for record in read_all(kafka_server, topic, len(keys))}

    assert {key: java_partition(key, 4) for key in keys} == placed


def test_more_messages_than_the_queue_holds_at_once_are_published(kafka_server, new_topic):
    topic = new_topic(2)
    publisher = KafkaPublisher(kafka_server, client_id="test", queue_records_max=10_000)
    publisher.publish([Message(topic, b"%d" % n, b"v") for n in range(25_000)], timeout_s=30.0)
    publisher.close(5.0)

    assert 25_000 == sum(topic_end_offsets(kafka_server, [topic]).values())


def test_full_queue_is_busy_once_what_it_took_is_delivered(new_topic, kafka_server):
    topic = new_topic(1)
    publisher = KafkaPublisher(kafka_server, client_id="test", queue_records_max=100, linger_ms=200)
    with pytest.raises(Busy, match="QUEUE_FULL"):
        publisher.publish([Message(topic, None, b"v" * 1_000)] * 1_000)

    assert {Partition(topic, 0): 100} == topic_end_offsets(kafka_server, [topic])
    publisher.close(5.0)


def test_full_queue_that_takes_nothing_is_busy_at_once(new_topic, kafka_server):
    topic = new_topic(1)
    publisher = KafkaPublisher(
        kafka_server, client_id="test", queue_records_max=100, linger_ms=9_000
    )
    publisher.send([Message(topic, None, b"v")] * 100)
    with pytest.raises(Busy, match="QUEUE_FULL"):
        publisher.send([Message(topic, None, b"v")])
    assert {Partition(topic, 0): 0} == topic_end_offsets(kafka_server, [topic])  # none has gone
    publisher.close(5.0)


def test_oversize_message_is_refused_before_it_is_sent(kafka_server, new_topic, publisher):
    topic = new_topic(1)
    with pytest.raises(Invalid, match="TOO_LARGE"):
        publisher.publish([Message(topic, None, b"x" * 1_048_577)])
    assert {Partition(topic, 0): 0} == topic_end_offsets(kafka_server, [topic])
    publisher.publish([Message(topic, None, b"x" * 900_000)])


def test_missing_topic_is_named(publisher):
    with pytest.raises(Unavailable, match=r"TOPIC_MISSING.*test\.absent\.v1"):
        publisher.publish([Message("test.absent.v1", None, b"")])


def test_caller_does_not_wait_for_the_messages_of_another(new_topic, publisher):
    topic, waits_s = new_topic(1), []
    publisher.publish([Message(topic, None, b"warm")])
    blocked = threading.Thread(target=publish_to_nowhere, args=(publisher,))
    blocked.start()
    for _ in range(20):
        begin_s = time.monotonic()
        publisher.publish([Message(topic, None, b"v")])
        waits_s.append(time.monotonic() - begin_s)
    blocked.join()
    assert sorted(waits_s)[10] < 0.5


def publish_to_nowhere(publisher):
    with pytest.raises(Unavailable):
        publisher.publish([Message("test.absent-too.v1", None, b"")])


def test_broker_that_is_away_is_unknown_within_the_time():
    publisher = KafkaPublisher("127.0.0.1:1", client_id="test")
    begin_s = time.monotonic()
    with pytest.raises(Unavailable, match="DELIVERY_UNKNOWN"):
        publisher.publish([Message("t", None, b"v")], timeout_s=0.5)
    assert time.monotonic() - begin_s < 2.0
    with pytest.raises(Unavailable, match="DELIVERY_UNKNOWN"):
        publisher.close(0.1)  # what is left is told, so that the exit code can be


def test_forked_process_is_refused(new_topic, publisher):
    topic = new_topic(1)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=publish_in_child, args=(publisher, topic, answers))
    child.start()
    assert "fork" in answers.get()
    child.join(10.0)


def publish_in_child(publisher, topic, answers):
    try:
        publisher.publish([Message(topic, None, b"v")])
        answers.put("published")
    except RuntimeError as err:
        answers.put(str(err))

# SPDX-License-Identifier: Apache-2.0
"""A topic as a log that is looked into: without a group, in bounded memory, to its end.

Each reading has a client of its own, for none may share one; what retention removes meanwhile is
passed over.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headrace.errors import TOPIC_MISSING, Unavailable
from headrace_kit.kafka import Partition, Record, client_settings, to_record
from headrace_kit.offsets import topic_partitions

REQUEST_TIMEOUT_S = 10.0
# A read may hold this many records of the greatest size, beside what the client has queued.
READ_RECORDS_MAX = 50
QUEUE_KIB_MAX = 16_384
NOT_THERE = (KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC)
LATE_ERRORS = (KafkaError._PARTITION_EOF, KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT)


class TopicLog(Protocol):
    """Records of any topic by their place."""

    def partitions(self, topic: str) -> list[int]:
        """In order; raises Unavailable TOPIC_MISSING or BROKER_UNAVAILABLE."""

    def read(self, partition: Partition, begin: int = 0, *, since_ms: int = 0) -> Iterator[Record]:
        """From `begin`, or from Kafka's time `since_ms` when that is later, to the end seen now.

        Of a partition that is not there, as of a topic that was made again with fewer, nothing.
        Raises Unavailable BROKER_UNAVAILABLE when nothing comes for 10 s.
        """

    def at(self, partition: Partition, offset: int) -> Record | None:
        """The record at this offset; None when retention has removed it, or it never was."""


def partitions_there(log: TopicLog, topic: str) -> list[Partition]:
    """In order; none where the topic is missing. Raises Unavailable BROKER_UNAVAILABLE."""
    try:
        return [Partition(topic, number) for number in log.partitions(topic)]
    except Unavailable as err:
        if err.reason != TOPIC_MISSING:
            raise
        return []


class KafkaTopicLog:
    """TopicLog on librdkafka; any thread may use it."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap

    def partitions(self, topic: str) -> list[int]:
        return sorted(each.number for each in topic_partitions(self._bootstrap, [topic]))

    def read(self, partition: Partition, begin: int = 0, *, since_ms: int = 0) -> Iterator[Record]:
        with self._consumer() as consumer:
            first, end = _watermarks(consumer, partition)
            if first == end:
                return
            later = _offset_at(consumer, partition, since_ms, end) if since_ms else 0
            yield from self._records(consumer, partition, max(first, begin, later), end)

    def at(self, partition: Partition, offset: int) -> Record | None:
        found = next(self.read(partition, offset), None)
        return found if found is not None and found.offset == offset else None

    def _records(
        self, consumer: Any, partition: Partition, begin: int, end: int
    ) -> Iterator[Record]:
        if begin >= end:
            return
        consumer.assign([TopicPartition(*partition, begin)])
        heard_s = time.monotonic()
        while begin < end:
            for message in consumer.consume(READ_RECORDS_MAX, 0.2):
                error = message.error()
                if error is None:
                    heard_s, begin = time.monotonic(), message.offset() + 1
                    if message.offset() < end:
                        yield to_record(message)
                elif error.code() not in LATE_ERRORS:
                    raise Unavailable("BROKER_UNAVAILABLE", bootstrap=self._bootstrap)
                elif error.code() == KafkaError._PARTITION_EOF:
                    return
            if time.monotonic() - heard_s > REQUEST_TIMEOUT_S:
                raise Unavailable("BROKER_UNAVAILABLE", bootstrap=self._bootstrap)

    @contextmanager
    def _consumer(self) -> Iterator[Any]:
        consumer = Consumer(
            client_settings(self._bootstrap, "topic-log")
            | {
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "group.id": "headrace-topic-log",  # asked for by the client, never joined
                "queued.max.messages.kbytes": QUEUE_KIB_MAX,
            }
        )
        try:
            yield consumer
        except KafkaException as err:
            raise Unavailable("BROKER_UNAVAILABLE", bootstrap=self._bootstrap) from err
        finally:
            consumer.close()


def _watermarks(consumer: Any, partition: Partition) -> tuple[int, int]:
    """The first offset and the end; both 0 of a partition that is not there."""
    try:
        first, end = consumer.get_watermark_offsets(
            TopicPartition(*partition), timeout=REQUEST_TIMEOUT_S
        )
    except KafkaException as err:
        if err.args[0].code() in NOT_THERE:
            return 0, 0
        raise
    return int(first), int(end)


def _offset_at(consumer: Any, partition: Partition, since_ms: int, end: int) -> int:
    asked = [TopicPartition(*partition, since_ms)]
    found = consumer.offsets_for_times(asked, timeout=REQUEST_TIMEOUT_S)[0].offset
    return int(found) if found >= 0 else end

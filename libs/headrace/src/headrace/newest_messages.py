# SPDX-License-Identifier: Apache-2.0
"""The newest messages of a topic, read once without a group: a look, not a subscription."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from headrace.errors import Unavailable

TIMEOUT_S = 10.0
READ_MAX = 500


def newest_messages(bootstrap: str, topic: str, *, count: int) -> Iterator[Any]:
    """At most so many of each partition, in its order, partition by partition.

    Raises Unavailable TOPIC_MISSING, or BROKER_UNAVAILABLE when nothing comes for 10 s.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "headrace-newest",  # asked for by the client, never joined
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
    )
    with closing(consumer):
        try:
            yield from _messages(consumer, topic, count)
        except KafkaException as err:
            raise Unavailable("BROKER_UNAVAILABLE", bootstrap=bootstrap) from err


def _messages(consumer: Any, topic: str, count: int) -> Iterator[Any]:
    found = consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic]
    if found.error is not None:
        raise Unavailable("TOPIC_MISSING", topic=topic)
    for number in found.partitions:
        partition = TopicPartition(topic, number)
        first, end = consumer.get_watermark_offsets(partition, timeout=TIMEOUT_S)
        begin, deadline_s = max(first, end - count), time.monotonic() + TIMEOUT_S
        consumer.assign([TopicPartition(topic, number, begin)])
        while begin < end:
            for message in consumer.consume(READ_MAX, 0.2):
                if message.error() is None:
                    begin, deadline_s = message.offset() + 1, time.monotonic() + TIMEOUT_S
                    yield message
            if time.monotonic() > deadline_s:
                raise Unavailable("BROKER_UNAVAILABLE", topic=topic)

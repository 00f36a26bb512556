# SPDX-License-Identifier: Apache-2.0
"""The newest of `feature.corrections`: which predictions were made before a record of theirs came.

Read without a group, from so far before the ends as is asked for, each once though it was repeated.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from headrace import topics
from headrace.errors import Unavailable
from headrace.feature.v1.feature_events_pb2 import FeaturesCorrected

TIMEOUT_S = 10.0
READ_MAX = 500


def newest_corrections(bootstrap: str, *, count: int) -> list[FeaturesCorrected]:
    """At most so many, in the order in which they were told; raises Unavailable."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "headrace-corrections",  # asked for by the client, never joined
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
    )
    with closing(consumer):
        try:
            told = sorted(_messages(consumer, count), key=lambda message: message.timestamp()[1])
        except KafkaException as err:
            raise Unavailable("BROKER_UNAVAILABLE", bootstrap=bootstrap) from err
    events = (FeaturesCorrected.FromString(message.value()) for message in told)
    return list({event.correction_id: event for event in events}.values())[-count:]


def _messages(consumer: Any, count: int) -> Iterator[Any]:
    """Of each partition the last ones."""
    topic = topics.FEATURE_CORRECTIONS.name
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
                    begin = message.offset() + 1
                    yield message
            if time.monotonic() > deadline_s:
                raise Unavailable("BROKER_UNAVAILABLE", topic=topic)

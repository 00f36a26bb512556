# SPDX-License-Identifier: Apache-2.0
"""What Kafka says of a record whose topic is not there."""

from __future__ import annotations

from confluent_kafka import KafkaError

MISSING_TOPIC = (
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
)

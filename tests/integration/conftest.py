# SPDX-License-Identifier: Apache-2.0
"""What integration tests share beside the servers: topics of their own, unique per test."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from headrace_kit.kafka import KafkaPublisher

REQUEST_TIMEOUT_S = 15.0


@pytest.fixture
def new_topic(kafka_server) -> Callable[..., str]:
    """Creates a topic: new_topic(partitions=1, name=None, **config) gives its name."""
    admin = AdminClient({"bootstrap.servers": kafka_server, "log_level": 0})

    def create(partitions: int = 1, *, name: str | None = None, **config: str) -> str:
        name = name or f"test.{uuid.uuid4().hex}.v1"
        settings = {key.replace("_", "."): value for key, value in config.items()}
        topic = NewTopic(name, partitions, 1, config=settings)
        admin.create_topics([topic])[name].result(REQUEST_TIMEOUT_S)
        return name

    return create


@pytest.fixture
def publisher(kafka_server) -> Iterator[KafkaPublisher]:
    """A publisher that is closed at the end."""
    made = KafkaPublisher(kafka_server, client_id="test")
    yield made
    made.close(5.0)

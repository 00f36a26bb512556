# SPDX-License-Identifier: Apache-2.0
"""What integration tests share beside the servers: topics of their own, unique per test."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from pydantic import SecretStr

from headrace.admin import create_topics, static_topics
from headrace.topics import Topic
from headrace_kit.kafka import KafkaPublisher, Partition, Record
from headrace_kit.objects import S3Settings, delta_storage_options
from headrace_kit.testing import has_leaders, wait_until
from headrace_kit.topic_log import KafkaTopicLog

sys.path.insert(0, str(Path(__file__).parent))

from ingest_process import (
    DEFINITIONS,
    REQUEST_TIMEOUT_S,
    Place,
    Service,
    Stream,
)


@pytest.fixture
def new_topic(kafka_server) -> Callable[..., str]:
    """Creates a topic: new_topic(partitions=1, name=None, **config) gives its name."""
    admin = AdminClient({"bootstrap.servers": kafka_server, "log_level": 0})

    def create(partitions: int = 1, *, name: str | None = None, **config: str) -> str:
        name = name or f"test.{uuid.uuid4().hex}.v1"
        settings = {key.replace("_", "."): value for key, value in config.items()}
        topic = NewTopic(name, partitions, 1, config=settings)
        admin.create_topics([topic])[name].result(REQUEST_TIMEOUT_S)
        wait_until(lambda: has_leaders(kafka_server, [name]))
        return name

    return create


@pytest.fixture
def publisher(kafka_server) -> Iterator[KafkaPublisher]:
    """A publisher that is closed at the end."""
    made = KafkaPublisher(kafka_server, client_id="test")
    yield made
    made.close(5.0)


@pytest.fixture
def set_aside(kafka_server) -> Callable[[Topic, str], list[Record]]:
    """The dead letters of one topic's records: those of other tests lie in the same topic."""

    def read(letters: Topic, source: str) -> list[Record]:
        log = KafkaTopicLog(kafka_server)
        partitions = [Partition(letters.name, number) for number in log.partitions(letters.name)]
        found = [record for partition in partitions for record in log.read(partition)]
        return [each for each in found if each.headers["dl-topic"] == source.encode()]

    return read


@pytest.fixture
def make_again(kafka_server) -> Iterator[Callable[[str, Topic], KafkaPublisher]]:
    """Deletes a topic and makes it again under its name; gives who knows nothing of the old one."""
    admin = AdminClient({"bootstrap.servers": kafka_server, "log_level": 0})
    publishers: list[KafkaPublisher] = []

    def make(name: str, topic: Topic) -> KafkaPublisher:
        admin.delete_topics([name])[name].result(REQUEST_TIMEOUT_S)
        wait_until(lambda: create_topics(kafka_server, [(name, topic)]))
        wait_until(lambda: has_leaders(kafka_server, [name]))
        publishers.append(KafkaPublisher(kafka_server, client_id="again"))
        return publishers[-1]

    yield make
    for each in publishers:
        each.close(5.0)


@pytest.fixture
def folder(tmp_path) -> Place:
    return Place(tmp_path.as_uri())


@pytest.fixture
def bucket(s3_server) -> Place:
    uri = f"s3://headrace/{uuid.uuid4().hex}"
    settings = {
        "S3_ENDPOINT": s3_server.endpoint,
        "S3_ACCESS_KEY": s3_server.access_key,
        "S3_SECRET_KEY": s3_server.secret_key,
    }
    s3 = S3Settings(s3_server.endpoint, s3_server.access_key, SecretStr(s3_server.secret_key))
    return Place(uri, settings, delta_storage_options(uri, s3))


@pytest.fixture
def definitions(kafka_server) -> None:
    """An empty topic of definitions: what other tests applied is not this test's."""
    admin = AdminClient({"bootstrap.servers": kafka_server, "log_level": 0})
    create_topics(kafka_server, static_topics())
    admin.delete_topics([DEFINITIONS.name])[DEFINITIONS.name].result(REQUEST_TIMEOUT_S)
    wait_until(lambda: create_topics(kafka_server, [(DEFINITIONS.name, DEFINITIONS)]))
    wait_until(lambda: has_leaders(kafka_server, [DEFINITIONS.name]))


@pytest.fixture
def start_service(kafka_server, definitions, folder, tmp_path_factory) -> Iterator:
    services = []

    def make(place: Place | None = None) -> Service:
        service = Service(kafka_server, place or folder, tmp_path_factory.mktemp("ingest"))
        services.append(service)
        return service

    yield make
    for service in services:
        service.close()


@pytest.fixture
def stream(kafka_server, definitions, publisher) -> Stream:
    stream = Stream(kafka_server, publisher)
    stream.apply()
    return stream

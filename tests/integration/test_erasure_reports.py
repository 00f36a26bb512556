# SPDX-License-Identifier: Apache-2.0
"""The report of an erasure names versions of training runs that were under way: ingest, registry.

What the trainer would tell of its runs is told by the test.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace import topics
from headrace.admin import create_topics, static_topics
from headrace.application import build_application, parse_definition
from headrace.client import Addresses, Client
from headrace.errors import Unavailable
from headrace.ingest.v1 import erasures_pb2
from headrace.local.ports import pick_ports
from headrace.local.process import Child
from headrace.local.service_process import service_process
from headrace.trainer.v1 import trainer_events_pb2
from headrace_kit.kafka import KafkaPublisher, Message, Partition
from headrace_kit.offsets import topic_end_offsets
from headrace_kit.testing import wait_until
from headrace_registry.testing import FLIGHTS, RECIPE, VIEW
from headrace_trainer.toy_models import a_linear_model

pytestmark = pytest.mark.integration

DEADLINE_S = 60.0
CALL_TIMEOUT_S = 10.0
ERASED = "EWR"


def end_offsets(bootstrap: str, names: list[str]) -> dict[Partition, int] | None:
    """None while a new topic has no leader yet."""
    try:
        return topic_end_offsets(bootstrap, names)
    except (Unavailable, KafkaException):
        return None


@pytest.fixture
def bootstrap(kafka_server: str, definitions: None) -> str:
    """Kafka without definitions and runs of other tests."""
    create_topics(kafka_server, static_topics())
    names = [topics.TRAINER_RUNS.name]
    ends = wait_until(lambda: end_offsets(kafka_server, names), timeout_s=DEADLINE_S)
    admin = AdminClient({"bootstrap.servers": kafka_server, "log_level": 0})
    gone = admin.delete_records([TopicPartition(*each, offset) for each, offset in ends.items()])
    for done in gone.values():
        done.result(CALL_TIMEOUT_S)
    return kafka_server


@pytest.fixture
def client(bootstrap: str, tmp_path: Path) -> Iterator[Client]:
    """Of a registry and an ingest service."""
    registry, ingest, *http = pick_ports(4)
    registry_at = f"127.0.0.1:{registry}"
    more = {
        "registry": {},
        "ingest": {
            "REGISTRY_ADDRESS": registry_at,
            "OBJECT_STORE_URI": (tmp_path / "objects").as_uri(),
            "COMMIT_INTERVAL_S": "0.1",
        },
    }
    with ExitStack() as running:
        for (name, settings), port, http_port in zip(
            more.items(), (registry, ingest), http, strict=True
        ):
            data = tmp_path / name
            data.mkdir()
            told = {"KAFKA_BOOTSTRAP": bootstrap, "DATA_DIR": str(data), **settings}
            child = Child(service_process(name, (port, http_port), told), data / "log", data)
            running.callback(child.stop)
            child.wait_ready()
        at = Addresses(kafka=bootstrap, registry=registry_at, ingest=f"127.0.0.1:{ingest}")
        yield Client(at)


class Story:
    """Flights, a recipe that learns of them, and what the trainer tells of its runs."""

    def __init__(self, client: Client, publisher: KafkaPublisher) -> None:
        self.client, self._publisher = client, publisher
        self.name = f"e{uuid.uuid4().hex[:12]}"
        spine, label = RECIPE["spine"], RECIPE["label"]
        documents = [
            {**FLIGHTS, "name": self.name},
            {**VIEW, "name": self.name, "stream": self.name},
            {
                **RECIPE,
                "name": self.name,
                "model": self.name,
                "spine": {**spine, "stream": self.name},
                "label": {**label, "stream": self.name},
                "features": [f"{self.name}:mean_1h"],
            },
        ]
        parsed = [parse_definition(each) for each in documents]
        client.apply(build_application(self.name, parsed))
        self._digest = client.models.upload(a_linear_model(1).onnx)

    def publish(self, *origins: str) -> None:
        now_us = time.time_ns() // 1_000
        self.client.publish(
            self.name,
            [
                {"flight_id": f"f{n}", "origin": each, "departed_at": now_us, "delay": 1.0}
                for n, each in enumerate(origins)
            ],
        )
        wait_until(lambda: self._stored() == len(origins), timeout_s=DEADLINE_S)

    def _stored(self) -> int:
        return sum(each.stored for each in self.client.stream_counts() if each.stream == self.name)

    def table_version(self) -> int:
        return self.client.datasets.create(self.name, stream=self.name).delta_version

    def register(self, run_id: str, *, table_version: int) -> None:
        """A run that read the stream's table at this version ends now, and becomes a version."""
        before = len(self.client.versions(self.name))
        trained = trainer_events_pb2.TrainedModel(
            model=self.name,
            digest=self._digest,
            features=[f"{self.name}:mean_1h"],
            trained_until_us=time.time_ns() // 1_000,
            metrics={"auc": 0.75, "log_loss": 0.5, "rows": 9.0, "positives": 2.0},
            manifest={f"delta_version:{self.name}": str(table_version)},
        )
        event = trainer_events_pb2.TrainingRunEvent(
            run_id=run_id,
            recipe=self.name,
            completed=trainer_events_pb2.RunCompleted(trained=trained),
        )
        headers = (("ce_id", f"{run_id}/completed".encode()),)
        message = Message(
            topics.TRAINER_RUNS.name, run_id.encode(), event.SerializeToString(), headers
        )
        self._publisher.publish([message])
        wait_until(lambda: len(self.client.versions(self.name)) > before, timeout_s=DEADLINE_S)

    def erase(self) -> erasures_pb2.Erasure:
        return self.client.datasets.erase("origin", ERASED, request_id=self.name)


def trained(report: erasures_pb2.Erasure) -> list[int]:
    return sorted(each.version for each in report.trained_versions)


@pytest.fixture
def story(client: Client, publisher: KafkaPublisher) -> Story:
    return Story(client, publisher)


def test_version_of_a_run_that_was_under_way_is_in_the_report(story: Story) -> None:
    story.publish(ERASED, "JFK", ERASED)
    read = story.table_version()
    story.register(f"{story.name}-first", table_version=read)
    report = story.erase()
    assert ([2], [1]) == ([each.rows for each in report.streams], trained(report))

    story.register(f"{story.name}-late", table_version=read)

    assert [1, 2] == trained(story.erase())
    [listed] = story.client.datasets.erasures()
    assert [1, 2] == trained(listed)

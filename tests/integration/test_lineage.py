# SPDX-License-Identifier: Apache-2.0
"""A prediction is found in the log of a real Kafka, and leads to the version that made it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from headrace import topics
from headrace.admin import create_topics
from headrace.errors import NotFound
from headrace.inference.v1.inference_events_pb2 import PredictionsMade
from headrace.lineage import Lineage
from headrace.registry.v1.registry_service_pb2 import VersionLineage
from headrace.rpc import open_channel
from headrace_kit.kafka import KafkaPublisher, Message

pytestmark = pytest.mark.integration


# Of a version, with a row that has no moments.
NO_ROWS = PredictionsMade(
    endpoint="delay", model="delay", version=7, first_prediction_ids=["0" * 32], run_rows=[1]
).SerializeToString()


def a_record(prefix: str, *, version: int, rows: int) -> bytes:
    made = PredictionsMade(
        endpoint="delay",
        model="delay",
        version=version,
        first_prediction_ids=[f"{prefix}00000000"],
        run_rows=[rows],
        as_of_us=[0],
        served_at_us=[0],
    )
    return made.SerializeToString()


@pytest.fixture
def lineage(kafka_server: str) -> Iterator[Lineage]:
    channel = open_channel("127.0.0.1:1")  # what is asked here is in the log alone
    yield Lineage(channel, kafka_server)
    channel.close()


def test_prediction_is_found_among_others_in_any_partition(
    kafka_server: str, lineage: Lineage
) -> None:
    endpoint = f"e{uuid.uuid4().hex}"
    topic = topics.INFERENCE_PREDICTIONS.of(endpoint)
    create_topics(kafka_server, [(topic, topics.INFERENCE_PREDICTIONS)])
    publisher = KafkaPublisher(kafka_server, client_id="test")
    records = [(letter * 24, number) for number, letter in enumerate("abcdef", start=1)]
    publisher.publish(
        [Message(topic, p.encode(), a_record(p, version=n, rows=4)) for p, n in records]
        + [Message(topic, b"x", b"no record")]
    )
    publisher.close(5.0)

    for prefix, number in records:
        found = lineage.prediction(f"{prefix}00000003", endpoint)
        assert (f"models:/delay/{number}", topic) == (found.reference, found.topic)
    with pytest.raises(NotFound, match="PREDICTION_UNKNOWN"):
        lineage.prediction(f"{'a' * 24}00000004", endpoint)


def test_predictions_of_a_version_are_those_that_it_made(
    kafka_server: str, lineage: Lineage, monkeypatch: pytest.MonkeyPatch
) -> None:
    seventh = VersionLineage(model="delay", version=7)
    monkeypatch.setattr(Lineage, "version", lambda self, reference: seventh)
    endpoint = f"e{uuid.uuid4().hex}"
    topic = topics.INFERENCE_PREDICTIONS.of(endpoint)
    create_topics(kafka_server, [(topic, topics.INFERENCE_PREDICTIONS)])
    publisher = KafkaPublisher(kafka_server, client_id="test")
    records = [(letter * 24, 6 + number % 2) for number, letter in enumerate("abcdef")]
    publisher.publish(
        [Message(topic, p.encode(), a_record(p, version=n, rows=2)) for p, n in records]
        + [Message(topic, b"x", b"no record"), Message(topic, b"y", NO_ROWS)]
    )
    publisher.close(5.0)

    found = [*lineage.predictions("delay@champion", endpoint)]

    made = [f"{prefix}{row:08x}" for prefix, number in records if number == 7 for row in (0, 1)]
    assert made == sorted(each.prediction_id for each in found)
    assert {("models:/delay/7", topic)} == {(each.reference, each.topic) for each in found}


def test_endpoint_that_is_none_is_told_so(
    lineage: Lineage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lineage, "version", lambda self, reference: VersionLineage())
    nowhere = f"e{uuid.uuid4().hex}"

    with pytest.raises(NotFound, match="DEFINITION_UNKNOWN"):
        lineage.prediction("a" * 32, nowhere)
    with pytest.raises(NotFound, match="DEFINITION_UNKNOWN"):
        next(lineage.predictions("delay@champion", nowhere))

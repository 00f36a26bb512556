# SPDX-License-Identifier: Apache-2.0
"""Topics change under a running pipeline (FAULTS section 6, rows 11 and 12)."""

from __future__ import annotations

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions
from tests.faults.checker import Findings
from tests.faults.load import steady
from tests.faults.world import RAW, RECORDS

from headrace import topics
from headrace.admin import create_topics
from headrace_kit.offsets import topic_end_offsets
from headrace_kit.testing import wait_until

pytestmark = pytest.mark.faults

ADMIN_S_MAX = 30.0


def raise_partitions(world, topic, count):
    admin = AdminClient({"bootstrap.servers": world.bootstrap, "log_level": 0})
    (raised,) = admin.create_partitions([NewPartitions(topic, count)]).values()
    raised.result(ADMIN_S_MAX)
    wait_until(lambda: count == len(topic_end_offsets(world.bootstrap, [topic])))


@pytest.mark.parametrize("topic", [RAW, RECORDS])
def test_partitions_raised_when_all_is_drained_keep_the_order(topic, world, ingest, feature):
    """An entity's events lie in an old partition and in a new one from then on."""
    ingest.start()
    feature.start()
    world.produce(world.new_orders(200))
    world.settle()
    raise_partitions(world, topic, 8)
    with steady(world) as load:
        load.wait_sent(400)

    assert Findings() == world.check()


def test_topic_deleted_and_made_again_is_read_from_its_beginning(world, ingest, feature):
    """The places of the old one say nothing about it: they are kept under the topic's id."""
    ingest.start()
    feature.start()
    world.produce(world.new_orders(200))
    world.settle()
    ingest.stop()
    admin = AdminClient({"bootstrap.servers": world.bootstrap, "log_level": 0})
    admin.delete_topics([RAW])[RAW].result(ADMIN_S_MAX)
    wait_until(lambda: RAW not in admin.list_topics(timeout=ADMIN_S_MAX).topics)

    ingest.start(ready=False)
    wait_until(lambda: b"topic_missing" in ingest.log.read_bytes())
    assert not ingest.ready()
    create_topics(world.bootstrap, [(RAW, topics.RAW)])
    ingest.wait_ready()
    world.produce(world.new_orders(100))
    world.settle()

    assert sorted(world.orders) == sorted(row.event_id for row in world.rows())
    assert sorted(world.orders) == sorted({each.event_id for each in world.published()})

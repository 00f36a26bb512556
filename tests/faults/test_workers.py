# SPDX-License-Identifier: Apache-2.0
"""Workers come, go and sleep (FAULTS section 6, rows 4 to 6; section 5, F8)."""

from __future__ import annotations

import shutil
from functools import partial

import pytest
from tests.faults.checker import Findings
from tests.faults.load import steady, waves
from tests.faults.world import RAW, RECORDS, Service

from headrace_kit.testing import wait_until

pytestmark = pytest.mark.faults

ROUNDS = 3
TOOK_OVER_S_MAX = 60.0
ENDED_BY_ITSELF = 70


def has_hit_its_failpoint(service: Service) -> bool:
    return b"failpoint_hit" in service.log.read_bytes()


def test_second_ingest_comes_and_goes_under_load(world, ingest, feature):
    ingest.start()
    feature.start()
    second = world.service("ingest", at="-2")
    with steady(world) as load:
        for _ in range(ROUNDS):
            second.start()
            load.wait_sent(300)
            second.stop()
            load.wait_sent(300)

    assert Findings() == world.check()


def test_ingest_that_slept_through_its_heir_changes_nothing(world, ingest, feature):
    """It wakes with a batch in hand and an archive that has moved on: it ends."""
    feature.start()
    ingest.start(fail="ingest.sink.version_read:2:stop")
    asleep = partial(has_hit_its_failpoint, ingest)
    world.produce(world.new_orders(200))
    wait_until(lambda: asleep() or world.read_up("ingest", RAW), timeout_s=TOOK_OVER_S_MAX)
    world.produce(world.new_orders(200))
    wait_until(asleep)
    heir = world.service("ingest", at="-2")
    heir.start(ready=False)
    world.produce(world.new_orders(200))  # else the heir stores the same, and all is well
    wait_until(lambda: world.read_up("ingest", RAW), timeout_s=TOOK_OVER_S_MAX)
    ingest.resume()
    assert ENDED_BY_ITSELF == ingest.wait_ended()
    world.produce(world.new_orders(200))

    assert Findings() == world.check()


def test_feature_that_slept_through_its_heir_changes_nothing(world, ingest, feature):
    """It wakes with partitions that are another's: whoever is asked, their owner answers."""
    ingest.start()
    feature.start()
    waves(world, ingest, feature, count=2)
    feature.pause()
    world.produce(world.new_orders(200))
    heir = world.service("feature", at="-2")
    heir.start(ready=False)
    wait_until(lambda: world.read_up("ingest", RAW), timeout_s=TOOK_OVER_S_MAX)
    wait_until(lambda: world.read_up("feature", RECORDS), timeout_s=TOOK_OVER_S_MAX)
    feature.resume()
    world.produce(world.new_orders(200))

    assert Findings() == world.check()


@pytest.fixture
def lost(world, ingest, feature):
    """A feature worker that was killed, and lost its disk; there are snapshots."""
    ingest.start()
    feature.start(SNAPSHOT_INTERVAL_S="0.2")
    waves(world, ingest)
    world.settle()
    wait_until(world.snapshots)
    feature.kill()
    shutil.rmtree(feature.folder)
    return feature


def test_feature_worker_joins_while_another_one_restores(world, lost):
    """Partitions go to the heir in the middle of their restore."""
    lost.start(fail="feature.restore.half:1:sleep:10", ready=False)
    wait_until(lambda: has_hit_its_failpoint(lost))
    heir = world.service("feature", at="-2")
    heir.start()
    lost.wait_ready()

    assert Findings() == world.check()


def test_feature_worker_dies_as_it_gives_up_what_it_restores(world, lost):
    lost.start(fail="feature.restore.half:1:sleep:10,feature.restore.rebalance:1:kill", ready=False)
    wait_until(lambda: has_hit_its_failpoint(lost))
    heir = world.service("feature", at="-2")
    heir.start(ready=False)
    assert -9 == lost.wait_ended()
    lost.start()
    heir.wait_ready()

    assert Findings() == world.check()

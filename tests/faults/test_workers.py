# SPDX-License-Identifier: Apache-2.0
"""Workers come, go and sleep (FAULTS section 6, rows 4 and 5)."""

from __future__ import annotations

import pytest
from tests.faults.checker import Findings
from tests.faults.load import steady
from tests.faults.world import RAW

from headrace_kit.testing import wait_until

pytestmark = pytest.mark.faults

ROUNDS = 3
TOOK_OVER_S_MAX = 60.0


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
    ingest.start()
    feature.start()
    world.produce(world.new_orders(200))
    world.settle()
    ingest.pause()
    world.produce(world.new_orders(200))
    heir = world.service("ingest", at="-2")
    heir.start(ready=False)
    wait_until(lambda: world.read_up("ingest", RAW), timeout_s=TOOK_OVER_S_MAX)
    ingest.resume()
    world.produce(world.new_orders(200))

    assert Findings() == world.check()

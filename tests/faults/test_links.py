# SPDX-License-Identifier: Apache-2.0
"""The broker and the links to it fail (FAULTS section 6, rows 1, 2, 18, 19)."""

from __future__ import annotations

import signal

import pytest
from tests.faults.checker import Findings
from tests.faults.load import steady, waves

from headrace.errors import Unavailable

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_broker_away_under_load(kill, world, ingest, feature):
    ingest.start()
    feature.start()
    with steady(world) as load:
        load.wait_sent(500)
        world.stop_broker(kill=kill)
        unsure = world.new_orders(5)
        with pytest.raises(Unavailable):
            ingest.publish(unsure)
        world.start_broker()
        load.wait_sent(500)

    assert [""] * 5 == ingest.publish(unsure, retries_max=5)
    assert Findings() == world.check()


@pytest.mark.parametrize("name", ["ingest", "feature"])
@pytest.mark.parametrize("fault", ["cut", "swallow_requests", "swallow_replies"])
def test_link_to_the_broker_fails_under_load(name, fault, world, ingest, feature):
    ingest.start()
    feature.start()
    proxy = world.proxies[name]
    with steady(world) as load:
        load.wait_sent(500)
        proxy.cut() if fault == "cut" else setattr(proxy.faults, fault, True)
        load.wait_sent(2_000)
        proxy.mend()
        load.wait_sent(500)

    assert Findings() == world.check()


def test_acknowledgements_are_held_and_ingest_dies_meanwhile(world, ingest, feature):
    """What the broker has and the service does not know of is sent again, and counts once."""
    feature.start()
    ingest.start(fail="ingest.sink.records_delivered:4:kill")
    world.proxies["ingest"].faults.produce_replies_s = 0.5
    waves(world, ingest)
    assert -signal.SIGKILL == ingest.wait_ended()

    world.proxies["ingest"].mend()
    ingest.start()
    assert Findings() == world.check()

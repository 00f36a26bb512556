# SPDX-License-Identifier: Apache-2.0
"""The wall clock of a service is wrong, and is put forward and back (FAULTS section 6, row 29)."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.faults import oracle
from tests.faults.checker import Findings
from tests.faults.clocks import WallClock
from tests.faults.load import WAVE_S_MAX, steady, waves
from tests.faults.world import Service

from headrace.feature.v1 import feature_service_pb2 as pb
from headrace_kit.testing import wait_until

pytestmark = pytest.mark.faults

HOUR_S = 3_600
# Far ahead, far behind, and right again: both steps back are longer than any tolerance.
JUMPS_S = (HOUR_S, -HOUR_S, 0)


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    try:
        return WallClock(tmp_path)
    except FileNotFoundError:
        pytest.skip("no C compiler")


def test_ingest_whose_clock_jumps_judges_as_before(clock, world, ingest, feature):
    """What is published through its door is dated by the broker, as all other records are."""
    feature.start()
    ingest.start(environment=clock.environment)
    for ahead_s in JUMPS_S:
        clock.put_ahead(ahead_s)
        waves(world, ingest, count=1)
        assert [""] * 100 == ingest.publish(world.new_orders(100))

    assert Findings() == world.check()
    assert [] == world.letters()


def test_feature_whose_clock_jumps_answers_as_before(clock, world, ingest, feature):
    ingest.start()
    feature.start(environment=clock.environment)
    for ahead_s in JUMPS_S:
        clock.put_ahead(ahead_s)
        waves(world, ingest, feature, count=1)
        wait_until(lambda: known_until_us(feature) > 0, timeout_s=WAVE_S_MAX)

    assert Findings() == world.check()
    # What was said to be known of the hours ahead is taken back.
    assert known_until_us(feature) <= time.time_ns() // 1_000


def known_until_us(feature: Service) -> int:
    request = pb.GetOnlineFeaturesRequest(features=oracle.feature_names("customer"))
    request.columns.add(name="customer").strings.values.extend(["customer-1"])
    return feature.online_features(request).known_until_us


def test_clock_that_the_object_store_refuses_loses_nothing(clock, world, s3_proxy, ingest, feature):
    """A signature of another hour is refused: nothing is stored until the clock is right."""
    feature.start()
    ingest.start(environment=clock.environment)
    with steady(world) as load:
        load.wait_sent(200)
        clock.put_ahead(HOUR_S)
        wait_until(lambda: not ingest.ready(), timeout_s=WAVE_S_MAX)
        assert b"RequestTimeTooSkewed" in ingest.log.read_bytes()
        load.wait_sent(200)
        clock.put_ahead(0)
        load.wait_sent(200)

    assert Findings() == world.check()

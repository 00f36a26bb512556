# SPDX-License-Identifier: Apache-2.0
"""kill -9 at every step of ingest and feature (FAULTS section 5): no letter is broken."""

from __future__ import annotations

import signal

import pytest
from tests.faults.checker import Findings
from tests.faults.load import waves

from headrace.errors import Unavailable
from headrace_kit.testing import wait_until

pytestmark = pytest.mark.faults


@pytest.mark.parametrize(
    ("step", "hit"),
    [
        ("ingest.sink.polled", 3),
        ("ingest.sink.records_delivered", 3),
        ("ingest.sink.version_read", 2),
        ("ingest.sink.committed", 2),
    ],
)
def test_ingest_killed_at_a_step_of_the_sink(step, hit, world, ingest, feature):
    feature.start()
    ingest.start(fail=f"{step}:{hit}:kill")
    waves(world, ingest)
    assert -signal.SIGKILL == ingest.wait_ended()

    ingest.start()
    assert Findings() == world.check()


@pytest.mark.parametrize("step", ["ingest.publish.validated", "ingest.publish.delivered"])
def test_ingest_killed_before_it_answers_a_publish(step, world, ingest, feature):
    feature.start()
    ingest.start(fail=f"{step}:2:kill")
    ingest.publish(world.new_orders(50))
    unsure = world.new_orders(50)
    with pytest.raises(Unavailable):
        ingest.publish(unsure)
    assert -signal.SIGKILL == ingest.wait_ended()

    ingest.start()
    assert [""] * 50 == ingest.publish(unsure, retries_max=5)
    assert Findings() == world.check()


@pytest.mark.parametrize(
    ("step", "hit"),
    [
        ("feature.loop.folded", 2),
        ("feature.loop.batch", 2),
        ("feature.loop.stored", 2),
        ("kit.state.in_batch", 6),  # some of these fill the views from the archive
    ],
)
def test_feature_killed_at_a_step_of_the_fold(step, hit, world, ingest, feature):
    ingest.start()
    feature.start(fail=f"{step}:{hit}:kill", ready=False)
    wait_until(lambda: feature.ready() or not feature.running())
    waves(world, ingest, feature)
    assert -signal.SIGKILL == feature.wait_ended()

    feature.start()
    assert Findings() == world.check()

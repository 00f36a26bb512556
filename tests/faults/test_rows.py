# SPDX-License-Identifier: Apache-2.0
"""Published rows hold every event in the end, whatever kill -9 comes between."""

from __future__ import annotations

import signal

import numpy as np
import pytest
from tests.faults import oracle
from tests.faults.checker import Findings
from tests.faults.world import CUSTOMERS, World, view

from headrace import topics
from headrace.admin import create_topics
from headrace.feature.v1.feature_events_pb2 import FeatureRowChanged
from headrace_kit.testing import wait_until

pytestmark = pytest.mark.faults

TOPIC = topics.FEATURE_ROWS.of("customer")
NAMES = oracle.feature_names("customer")


def newest_rows(world: World) -> dict[str, FeatureRowChanged]:
    read = world.read(TOPIC)
    return {key.decode(): FeatureRowChanged.FromString(value) for key, value, _ in read}


def rows_equal_the_oracle(world: World) -> bool:
    rows = newest_rows(world)
    return len(rows) == CUSTOMERS and all(
        equals_the_oracle(world, entity, row) for entity, row in rows.items()
    )


def equals_the_oracle(world: World, entity: str, row: FeatureRowChanged) -> bool:
    answers = oracle.answers(world.orders.values(), row.from_us)
    expected = np.array([answers[entity, name] for name in NAMES], np.float32)
    values = dict(zip(row.features, np.frombuffer(row.values, "<f4"), strict=True))
    found = np.array([values[name.removeprefix("customer:")] for name in NAMES])
    return np.allclose(expected, found, rtol=1e-6, equal_nan=True)


@pytest.mark.parametrize(
    "step", ["feature.loop.folded", "feature.loop.stored", "feature.loop.rows_sent"]
)
def test_feature_killed_at_a_step_publishes_the_newest_row_of_each(step, world, ingest, feature):
    """Nobody orders again behind the kill: another row would make good for one that was lost."""
    create_topics(world.bootstrap, [(TOPIC, topics.FEATURE_ROWS)])
    world.define({**view("customer"), "publish_rows": True}, version=2)
    feature.start()  # before there is an archive: what is filled from it sends no rows
    ingest.start()
    world.produce(world.new_orders(200))
    wait_until(lambda: rows_equal_the_oracle(world))
    assert 0 == feature.stop()

    feature.start(fail=f"{step}:1:kill", ready=False)
    world.produce(world.new_orders(200))
    assert -signal.SIGKILL == feature.wait_ended()
    feature.start()

    assert Findings() == world.check()
    wait_until(lambda: rows_equal_the_oracle(world))

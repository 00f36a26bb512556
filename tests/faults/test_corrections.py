# SPDX-License-Identifier: Apache-2.0
"""Late events tell the predictions that were made without them, whatever kill -9 comes between."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping

import pytest
from tests.faults import oracle
from tests.faults.checker import Findings
from tests.faults.world import CUSTOMERS, Service, World

from headrace import topics
from headrace.feature.v1 import feature_service_pb2 as pb
from headrace.feature.v1.feature_events_pb2 import FeaturesCorrected
from headrace_kit.testing import wait_until

pytestmark = pytest.mark.faults


def predict(feature: Service, as_of_us: int) -> None:
    """Features of every customer, for the prediction that is named as it is."""
    customers = [f"customer-{number}" for number in range(CUSTOMERS)]
    request = pb.GetOnlineFeaturesRequest(features=oracle.feature_names("customer"))
    request.columns.add(name="customer").strings.values.extend(customers)
    request.as_of_us.extend([as_of_us] * CUSTOMERS)
    request.prediction_ids.extend(customers)
    feature.online_features(request)


def told(world: World) -> list[tuple[bytes, FeaturesCorrected]]:
    return [
        (dict(headers)["ce_id"], FeaturesCorrected.FromString(value))
        for _, value, headers in world.read(topics.FEATURE_CORRECTIONS.name)
    ]


def all_are_told(world: World, values: Mapping[str, bytes]) -> bool:
    return values.keys() <= {event.event_id for _, event in told(world)}


@pytest.mark.parametrize(
    "step",
    [
        "feature.loop.folded",
        "kit.state.in_batch",
        "feature.loop.stored",
        "feature.loop.correction_sent",
    ],
)
def test_feature_killed_at_a_step_tells_every_correction_with_one_id(step, world, ingest, feature):
    ingest.start()
    feature.start()
    early = world.new_orders(50)
    world.produce(early)
    world.settle()
    as_of_us = time.time_ns() // 1_000
    predict(feature, as_of_us)
    assert 0 == feature.stop()

    feature.start(fail=f"{step}:1:kill", ready=False)
    late = world.new_orders(100)
    world.produce(late)
    assert -signal.SIGKILL == feature.wait_ended()
    feature.start()

    wait_until(lambda: all_are_told(world, late), timeout_s=60.0)
    assert Findings() == world.check()
    events = told(world)
    by_id = {event.correction_id: event for _, event in events}
    assert late.keys() == {event.event_id for event in by_id.values()}
    assert len(late) == len(by_id)
    for named, event in events:
        customer = json.loads(late[event.event_id])["customer"]
        assert event.correction_id.encode() == named
        assert event == by_id[event.correction_id]
        assert ([customer], {"customer": customer}) == (
            list(event.prediction_ids),
            dict(event.entity),
        )
        assert (as_of_us, as_of_us) == (event.served_from_us, event.served_until_us)

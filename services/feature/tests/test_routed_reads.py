# SPDX-License-Identifier: Apache-2.0
"""Reads at any worker are those of one worker that owns everything, or they are refused."""

from contextlib import suppress

import numpy as np
import pytest
from feature_cluster import PARTITIONS, Cluster, Neighbours
from feature_world import (
    HOUR,
    START,
    WINDOW_FEATURES,
    Event,
    World,
    bits,
    event_lists,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.errors import Invalid, Unavailable
from headrace_feature.adapters.routed_reader import RoutedReader
from headrace_feature.handlers import (
    GetOnlineFeatures,
    OnlineState,
    get_online_features,
)

ROWS = [(zone, 1, START + half * HOUR // 2) for zone in "ab" for half in range(16)]


def read(worker, neighbours, rows=ROWS):
    world = worker.world
    columns = {"zone": [zone for zone, _, _ in rows], "kind": [str(kind) for _, kind, _ in rows]}
    moments = np.array([as_of for _, _, as_of in rows], dtype=np.int64)
    reader = RoutedReader(world.store, neighbours, neighbours)
    state = OnlineState(lambda: world.catalogue, reader, world.kept, world.known, world.clock)
    return get_online_features(GetOnlineFeatures(WINDOW_FEATURES, columns, moments), state).values


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
@given(data=st.data(), events=event_lists())
def test_any_worker_answers_as_one_that_owns_everything(tmp_path_factory, data, events):
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    workers = [cluster.worker(), cluster.worker()]
    for number in PARTITIONS:
        workers[data.draw(st.integers(0, 1))].place(number)
    for event in events:
        cluster.log[data.draw(st.sampled_from(PARTITIONS))].append(event)
    for worker in workers:
        worker.read_on(data.draw(st.integers(1, 5)))
        worker.copy()
    owner = next(each for each in workers if 0 in each.owned)
    if data.draw(st.booleans()):
        owner.give_up(0)
        workers[data.draw(st.integers(0, 1))].place(0)
    neighbours = Neighbours(workers)
    for worker in workers:
        with suppress(Unavailable):  # what is answered may be kept
            read(worker, neighbours)
    for worker in workers:
        worker.read_on()

    once = World()
    once.fold(*events)
    expected = bits(once.read(ROWS))
    assert expected == bits(read(workers[0], neighbours))
    assert expected == bits(read(workers[1], neighbours))


@pytest.fixture
def pair(tmp_path):
    cluster = Cluster(tmp_path)
    workers = [cluster.worker(), cluster.worker()]
    for number, worker in enumerate(workers):
        worker.place(number)
        cluster.log[number] += [Event(f"{number}-{n}", START + n, START + n) for n in range(4)]
        worker.read_on()
    return workers


def test_read_is_refused_while_a_neighbour_is_away(pair):
    neighbours = Neighbours(pair)
    neighbours.away.add(1)

    with pytest.raises(Unavailable, match="SERVICE_UNAVAILABLE"):
        read(pair[0], neighbours)
    assert neighbours.looked_again


def test_read_is_refused_while_nobody_owns_a_partition(pair):
    pair[1].give_up(1)

    for worker in pair:
        with pytest.raises(Unavailable, match="RESTORING"):
            read(worker, Neighbours(pair))


def test_neighbour_that_lost_the_partition_refuses(pair):
    neighbours = Neighbours(pair)
    stale = neighbours.address_by_partition("rides")
    neighbours.address_by_partition = lambda stream: stale
    pair[1].give_up(1)

    with pytest.raises(Unavailable, match="RESTORING"):
        read(pair[0], neighbours)


def test_neighbour_whose_history_begins_later_refuses(tmp_path):
    cluster = Cluster(tmp_path)
    workers = [cluster.worker(), cluster.worker()]
    workers[1].handler._keep_us = HOUR
    for number, worker in enumerate(workers):
        worker.place(number)
        cluster.log[number].append(Event(f"{number}", START + 90 * HOUR, START + 90 * HOUR))
        worker.read_on()

    with pytest.raises(Invalid, match="history begins"):
        read(workers[0], Neighbours(workers))

# SPDX-License-Identifier: Apache-2.0
"""Reads at any worker are those of one worker that owns everything, or they are refused."""

from concurrent.futures import Future
from contextlib import suppress

import grpc
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
from headrace.feature.v1.feature_service_pb2 import GetObservationsResponse
from headrace_feature.adapters import routed_reader
from headrace_feature.adapters.conversions import to_observations_query
from headrace_feature.adapters.routed_reader import GrpcPeers, RoutedReader
from headrace_feature.adapters.run_files import to_bytes
from headrace_feature.domain.gathering import Wanted
from headrace_feature.handlers import (
    GetOnlineFeatures,
    OnlineState,
    get_observations,
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


class TooLarge(grpc.RpcError):
    """What gRPC says of an answer beyond the limit."""

    def code(self):
        return grpc.StatusCode.RESOURCE_EXHAUSTED

    def details(self):
        return "CLIENT: Received message larger than max"

    def trailing_metadata(self):
        return ()


class Peer:
    """ObservationService of a worker in this process, whose messages are bounded."""

    def __init__(self, worker, bytes_max):
        self.worker, self.bytes_max, self.sizes = worker, bytes_max, []

    @property
    def GetObservations(self):  # noqa: N802 - gRPC's name
        return self

    def future(self, request, timeout):
        world = self.worker.world
        query = to_observations_query(request)
        run = to_bytes(get_observations(query, catalogue=world.catalogue, store=world.store))
        self.sizes.append(len(run))
        future = Future()
        if len(run) > self.bytes_max:
            future.set_exception(TooLarge())
        else:
            future.set_result(GetObservationsResponse(run=run))
        return future


class BoundedNeighbours(GrpcPeers):
    def __init__(self, workers):
        self.neighbours = Neighbours(workers)

    def address_by_partition(self, stream):
        return self.neighbours.address_by_partition(stream)

    def look_again(self):
        self.neighbours.look_again()


def peers_of(pair, monkeypatch, bytes_max):
    peers = {str(number): Peer(worker, bytes_max) for number, worker in enumerate(pair)}
    monkeypatch.setattr(routed_reader, "_stub", peers.__getitem__)
    return peers


def test_answer_that_exceeds_a_message_comes_in_several(pair, monkeypatch):
    moments = [START + n * HOUR // 2 for n in range(8)]
    more = [Event(f"more-{n}", at, at, zone="ab"[n % 2]) for n, at in enumerate(moments)]
    pair[1].cluster.log[1] += more
    pair[1].read_on()
    whole = peers_of(pair, monkeypatch, 100_000)["1"]
    expected = bits(read(pair[0], BoundedNeighbours(pair)))
    bounded = peers_of(pair, monkeypatch, max(whole.sizes) - 1)["1"]

    assert expected == bits(read(pair[0], BoundedNeighbours(pair)))
    assert expected == bits(read(pair[0], Neighbours(pair)))
    assert len(bounded.sizes) > len(whole.sizes)


def test_read_of_more_messages_than_are_allowed_is_refused(pair, monkeypatch):
    peers_of(pair, monkeypatch, 100)

    with pytest.raises(Unavailable, match="SERVICE_UNAVAILABLE"):
        read(pair[0], BoundedNeighbours(pair))


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=5),
)
def test_halves_of_what_is_wanted_want_the_same_together(spans):
    since_us, until_us = (np.array(each, dtype=np.int64) for each in zip(*spans, strict=True))
    wanted = Wanted(np.arange(2 * len(spans), dtype=np.uint64).reshape(2, -1), since_us, until_us)

    def moments(asked):
        return [
            (high, moment)
            for high, since, until in zip(
                asked.entities[0].tolist(), asked.since_us, asked.until_us, strict=True
            )
            for moment in range(since + 1, until + 1)
        ]

    together = [each for half in wanted.halves() for each in moments(half)]
    assert sorted(moments(wanted)) == sorted(together)

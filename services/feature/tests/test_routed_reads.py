# SPDX-License-Identifier: Apache-2.0
"""Reads at any worker are those of one worker that owns everything, or they are refused."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from feature_cluster import PARTITIONS, Cluster, Neighbours, take_step
from feature_world import (
    DAY,
    HOUR,
    START,
    WINDOW_FEATURES,
    Event,
    World,
    bits,
    event_lists,
)
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.errors import Busy, Denied, HeadraceError, Invalid, Unavailable
from headrace.feature.v1.feature_service_pb2_grpc import ObservationServiceStub
from headrace_feature import handlers
from headrace_feature.adapters import grpc_api, observation_budget, routed_reader
from headrace_feature.adapters.conversions import to_observations_request
from headrace_feature.adapters.grpc_api import PeerApi
from headrace_feature.adapters.observation_budget import ObservationBudget
from headrace_feature.adapters.routed_reader import GrpcPeers, RoutedReader
from headrace_feature.adapters.run_files import to_bytes
from headrace_feature.domain.entities import digests
from headrace_feature.domain.gathering import Extract, Wanted
from headrace_feature.domain.log_place import LogPlace
from headrace_feature.domain.observations import COLUMNS, empty_run, merged
from headrace_feature.domain.views import LAYOUT_ID_BYTES
from headrace_feature.handlers import (
    GetObservations,
    GetOnlineFeatures,
    OnlineState,
    get_online_features,
)
from headrace_kit.error_status import to_status
from headrace_kit.testing import RefusingChannel

ROWS = [(zone, 1, START + half * HOUR // 2) for zone in "ab" for half in range(16)]


def read(worker, neighbours, rows=ROWS):
    return answer(worker, neighbours, rows).values


def answer(worker, neighbours, rows=ROWS):
    world = worker.world
    columns = {"zone": [zone for zone, _, _ in rows], "kind": [str(kind) for _, kind, _ in rows]}
    moments = np.array([as_of for _, _, as_of in rows], dtype=np.int64)
    reader = RoutedReader(world.store, neighbours, neighbours)
    state = OnlineState(lambda: world.catalogue, reader, world.kept, world.known, world.clock)
    return get_online_features(GetOnlineFeatures(WINDOW_FEATURES, columns, moments), state)


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


def ask_ends(workers, asked_us):
    for worker in workers:
        ends, clock = worker.cluster.ends("rides"), worker.world.clock
        clock.advance(max(0, asked_us - clock.now_us()))
        worker.world.known.note("rides", asked_us, "first", ends)


def known_until_us(workers, neighbours):
    return [answer(each, neighbours).known_until_us for each in workers]


def test_idle_stream_is_known_until_its_ends_were_asked_for_last(pair):
    for asked_us in (START, START + HOUR):
        ask_ends(pair, asked_us)

        assert [asked_us] * 2 == known_until_us(pair, Neighbours(pair))


def test_worker_whose_fold_stands_still_is_behind_for_whoever_is_asked(pair):
    ask_ends(pair, START)
    pair[1].cluster.log[1].append(Event("later", START, START))
    ask_ends(pair, START + HOUR)
    assert [START] * 2 == known_until_us(pair, Neighbours(pair))

    pair[1].read_on()
    assert [START + HOUR] * 2 == known_until_us(pair, Neighbours(pair))


def test_nothing_is_known_of_moments_behind_the_one_in_which_the_read_began(pair):
    for worker in pair:
        worker.world.known.note("rides", START + 1, "first", worker.cluster.ends("rides"))

    assert [START] * 2 == known_until_us(pair, Neighbours(pair))


def test_partition_that_nobody_was_asked_for_is_not_known(pair):
    for worker in pair:
        worker.world.known.note("rides", START, "first", {0: 4, 1: 4, 2: 1})

    assert [0] * 2 == known_until_us(pair, Neighbours(pair))


def test_what_came_to_us_amid_a_read_is_not_told_of_by_who_had_it(pair):
    neighbours, world = Neighbours(pair), pair[0].world
    layout = world.catalogue.layout_by_view["zone"]
    wanted = Wanted(digests([("a",)]), np.full(1, START), np.full(1, START + DAY))
    with RoutedReader(world.store, neighbours, neighbours).reading() as reader:
        reader.runs_of(layout, wanted)
        assert {1: LogPlace(4, "first")} == reader.elsewhere(layout)

        pair[1].give_up(1)
        pair[0].place(1)
        reader.runs_of(layout, wanted)
        assert {} == reader.elsewhere(layout)


def test_partition_is_told_of_as_the_first_rows_of_a_read_had_it(pair):
    neighbours, world = Neighbours(pair), pair[0].world
    layout = world.catalogue.layout_by_view["zone"]
    wanted = Wanted(digests([("a",)]), np.full(1, START), np.full(1, START + DAY))
    with RoutedReader(world.store, neighbours, neighbours).reading() as reader:
        reader.runs_of(layout, wanted)
        pair[1].cluster.log[1].append(Event("later", START, START))
        pair[1].read_on()
        reader.runs_of(layout, wanted)

        assert {1: LogPlace(4, "first")} == reader.elsewhere(layout)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
@given(data=st.data())
def test_nothing_is_known_that_is_not_in_the_answer(tmp_path_factory, data):
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    workers, published = [cluster.worker(), cluster.worker()], {0: 0}
    for number in PARTITIONS:
        workers[data.draw(st.integers(0, 1))].place(number)
    for moment in range(1, data.draw(st.integers(2, 12))):
        for number in PARTITIONS:
            count = data.draw(st.integers(0, 3))
            cluster.log[number] += [Event(f"{moment}-{number}-{n}", 1, 1) for n in range(count)]
        published[moment] = sum(map(len, cluster.log.values()))
        ask_ends(workers, moment)
        step = data.draw(st.sampled_from(["read", "read", "copy", "move", "lose", "restart"]))
        take_step(step, data.draw(st.integers(0, 1)), workers, cluster, data.draw)
        for worker in workers:
            with suppress(Unavailable):
                told = answer(worker, Neighbours(workers), [("a", 1, HOUR)])
                counted = told.values[0, WINDOW_FEATURES.index("zone:count_1h")]
                assert counted >= published[told.known_until_us]
    for worker in workers:
        worker.read_on()
    ask_ends(workers, 100)
    assert [100] * 2 == known_until_us(workers, Neighbours(workers))


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


class Refused(grpc.RpcError):
    """What gRPC says of an error that the kit has mapped."""

    def __init__(self, error):
        self._status = rpc_status.to_status(to_status(error))

    def code(self):
        return self._status.code

    def details(self):
        return self._status.details

    def trailing_metadata(self):
        return self._status.trailing_metadata


class Answer:
    """A call that is over: a future, or a stream of what was answered."""

    def __init__(self, compute):
        try:
            self._answer, self._error = compute(), None
        except HeadraceError as err:
            self._error = Refused(err)

    def result(self):
        if self._error:
            raise self._error
        return self._answer

    def __iter__(self):
        return iter(self.result())

    def cancel(self):
        pass


class Stub:
    """ObservationService of a worker in this process."""

    def __init__(self, worker):
        world = worker.world
        self.api = PeerApi(catalogue=lambda: world.catalogue, store=world.store, notes=None)
        self.pieces = []

    @property
    def GetObservations(self):  # noqa: N802 - gRPC's name
        return SimpleNamespace(
            future=lambda request, timeout: Answer(lambda: self.api.GetObservations(request, None))
        )

    def StreamObservations(self, request, timeout):  # noqa: N802 - gRPC's name
        answer = Answer(lambda: list(self.api.StreamObservations(request, None)))
        self.pieces += [len(piece.run) for piece in answer]
        return answer


class AskedNeighbours(GrpcPeers):
    def __init__(self, workers, budget=None):
        super().__init__("", budget or ObservationBudget(1 << 20))
        self.neighbours = Neighbours(workers)

    def address_by_partition(self, stream):
        return self.neighbours.address_by_partition(stream)

    def look_again(self):
        self.neighbours.look_again()


@pytest.fixture
def stubs(pair, monkeypatch):
    """Both workers hold more of an entity than fits one answer, in runs that overlap in time."""
    moments = [START + n * HOUR // 8 for n in range(32)]
    for number, worker in enumerate(pair):
        for part in range(3):
            worker.cluster.log[number] += [
                Event(f"{number}-{part}-{n}", at, at, zone="ab"[n % 2], fare=n / 7)
                for n, at in enumerate(moments)
            ]
            worker.read_on()
    monkeypatch.setattr(grpc_api, "PIECE_BYTES_MAX", 500)
    made = {str(number): Stub(worker) for number, worker in enumerate(pair)}
    monkeypatch.setattr(routed_reader, "_stub", lambda address, token: made[address])
    return made


def test_entity_that_exceeds_an_answer_comes_in_pieces(pair, stubs):
    expected = bits(read(pair[0], Neighbours(pair)))

    assert expected == bits(read(pair[0], AskedNeighbours(pair)))
    row_bytes_max = 150
    assert len(stubs["1"].pieces) > 10
    assert max(stubs["1"].pieces) < 500 + row_bytes_max


@pytest.mark.parametrize("piece_bytes_max", [500, 2 << 20], ids=["in pieces", "at once"])
def test_neighbour_says_how_far_it_has_read_what_it_is_asked_for(
    pair, stubs, monkeypatch, piece_bytes_max
):
    monkeypatch.setattr(grpc_api, "PIECE_BYTES_MAX", piece_bytes_max)
    ask_ends(pair, START)

    assert [START] * 2 == known_until_us(pair, AskedNeighbours(pair))


def test_read_that_needs_too_much_of_a_neighbour_is_refused_by_name(pair, stubs, monkeypatch):
    monkeypatch.setattr(handlers, "OBSERVATIONS_BYTES_MAX", 1_000)

    with pytest.raises(Busy, match=r"BATCH_TOO_LARGE.*observations_bytes_max=1000"):
        read(pair[0], AskedNeighbours(pair))
    assert not stubs["1"].pieces


def test_neighbour_that_refuses_the_token_makes_the_read_unavailable(pair, monkeypatch):
    stale = ObservationServiceStub(RefusingChannel(Denied("TOKEN_UNKNOWN")))
    monkeypatch.setattr(routed_reader, "_stub", lambda address, token: stale)

    with pytest.raises(Unavailable, match=r"SERVICE_UNAVAILABLE.*service=feature.*TOKEN_UNKNOWN"):
        read(pair[0], AskedNeighbours(pair))


@pytest.mark.parametrize(
    ("layout_id", "kind", "reason"),
    [
        (b"", Invalid, "BAD_REQUEST"),
        (b"no layout", Invalid, "BAD_REQUEST"),
        (b"\0" * LAYOUT_ID_BYTES, Unavailable, "RESTORING"),  # its definition may be on its way
    ],
)
def test_layout_that_cannot_be_is_refused_and_one_that_may_come_is_awaited(
    stubs, layout_id, kind, reason
):
    query = GetObservations(
        layout_id, (0,), Wanted(digests([("a",)]), np.full(1, 0), np.full(1, 1))
    )
    with pytest.raises(kind, match=reason):
        stubs["0"].api.GetObservations(to_observations_request(query), None)


def test_read_that_needs_too_much_of_all_neighbours_together_is_refused(stubs, monkeypatch):
    layout = next(iter(stubs["0"].api._catalogue().layouts().values()))
    zones = Wanted(digests([("a",), ("b",)]), np.full(2, START - 1), np.full(2, START + DAY))
    asked = {str(number): GetObservations(layout.id, (number,), zones) for number in PARTITIONS}
    peers = GrpcPeers("", ObservationBudget(1 << 20))
    with peers.reading():
        held = [len(run.matrix) for run in peers.ask(asked).runs]
    one = stubs["0"].api.GetObservations(to_observations_request(asked["0"]), None).bytes
    monkeypatch.setattr(handlers, "OBSERVATIONS_BYTES_MAX", one * 3 // 2)

    assert 200 == sum(held)
    with peers.reading(), pytest.raises(Busy, match="BATCH_TOO_LARGE"):
        peers.ask(asked)


def test_read_that_finds_no_room_beside_others_is_told_so_and_they_give_it_back(
    pair, stubs, monkeypatch
):
    monkeypatch.setattr(observation_budget, "WAIT_S_MAX", 0.0)
    expected, budget = bits(read(pair[0], Neighbours(pair))), ObservationBudget(20_000)
    asked = AskedNeighbours(pair, budget)
    with budget.reading():
        budget.take(19_000)
        with pytest.raises(Busy, match="QUEUE_FULL"):
            read(pair[0], asked)

    for _ in range(3):
        assert expected == bits(read(pair[0], asked))


def test_room_that_another_read_gives_back_is_waited_for(monkeypatch):
    monkeypatch.setattr(observation_budget, "WAIT_S_MAX", 30.0)
    budget, taken, done = ObservationBudget(100), threading.Event(), threading.Event()

    def first():
        with budget.reading():
            budget.take(80)
            taken.set()
            done.wait(30.0)

    def second():
        with budget.reading():
            budget.take(60)

    with ThreadPoolExecutor(2) as pool:
        pool.submit(first)
        assert taken.wait(30.0)
        waiting = pool.submit(second)
        assert not waiting.done()
        done.set()
        assert waiting.result(30.0) is None


def test_what_several_questions_of_one_read_hold_counts_together(monkeypatch):
    monkeypatch.setattr(handlers, "OBSERVATIONS_BYTES_MAX", 100)
    budget = ObservationBudget(100)
    with budget.reading():
        budget.take(60)
        with pytest.raises(Busy, match="BATCH_TOO_LARGE"):
            budget.take(60)


@settings(deadline=None)
@given(lists=st.lists(event_lists(), min_size=1, max_size=4), bytes_max=st.integers(1, 2_000))
def test_pieces_of_an_extract_hold_what_the_whole_holds(lists, bytes_max):
    world = World()
    for events in lists:
        world.fold(*events)
    layout = world.catalogue.layout_by_view["zone"]
    runs = world.store.runs(layout)
    zones = digests([("b",), ("nobody",), ("a",)])
    wanted = Wanted(zones, np.full(3, START + HOUR), np.full(3, START + 4 * HOUR))
    extract = Extract.of(runs, wanted, width=COLUMNS + layout.width)
    pieces = list(extract.pieces(bytes_max))

    assert to_bytes(extract.whole()) == to_bytes(merged([*pieces, empty_run(layout)], floor_us=0))
    for piece in pieces:
        assert len(piece)
        assert to_bytes(piece) == to_bytes(merged([piece], floor_us=0))

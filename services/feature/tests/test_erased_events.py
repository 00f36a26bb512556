# SPDX-License-Identifier: Apache-2.0
"""Erased events: in no run, no answer and no snapshot, whatever is repeated, moved or lost."""

from dataclasses import replace

import pytest
from feature_cluster import PARTITIONS, STEPS, Cluster, take_step
from feature_world import (
    ERASED_EVENTS,
    HOUR,
    START,
    VIEWS,
    Event,
    World,
    a_catalogue,
    a_window_view,
    bits,
    event_lists,
    tell_erased,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace_feature.adapters import erased_events_reader, run_tiers
from headrace_feature.domain.erased_events import ErasedEvents
from headrace_feature.domain.log_place import BEGINNING, LogPlace, earliest
from headrace_feature.domain.observations import whole
from headrace_kit.erased_entities import entity_sha256
from headrace_kit.failpoints import FailpointRaised, arm
from headrace_kit.kafka import Message
from headrace_kit.state_store import LmdbStateStore

LATER = START + 1_000 * HOUR
ROWS = [(zone, 1, START + half * HOUR // 2) for zone in "ab" for half in range(16)]
DRIVERS = ("ann", "ben")
EVENTS = [
    Event(
        f"ride-{n:03}",
        START + n * HOUR // 64,
        START + n * HOUR // 64,
        zone="ab"[n % 2],
        driver=DRIVERS[n % 3 == 0],
    )
    for n in range(100)
]


@pytest.fixture
def small_tiers(monkeypatch):
    monkeypatch.setattr(run_tiers, "ROWS_SMALL_MAX", 12)
    monkeypatch.setattr(run_tiers, "TIER_ROWS", 1)
    monkeypatch.setattr(run_tiers, "PIECE_ROWS", 4)


@pytest.fixture
def world(tmp_path, small_tiers):
    yield World(folder=tmp_path / "runs")
    arm(None)


def fold_one_by_one(world, events=EVENTS):
    for event in events:
        world.fold(event)
    for _ in range(100):
        world.loop_handler.idle()


def of(driver, events=EVENTS):
    return [event for event in events if event.driver == driver]


def others(driver="ben", events=EVENTS):
    return [event for event in events if event.driver != driver]


def erase(world, driver="ben", events=EVENTS, at_us=LATER):
    """The driver names no view's entity, and is in no run."""
    tell_erased(world.told, of(driver, events), "driver", driver, at_us)


def folded_once(events):
    world = World()
    world.fold(*events)
    return world


def test_erased_events_leave_small_and_large_runs(world):
    fold_one_by_one(world)
    assert any(each.large for each in _held(world))
    erase(world)
    world.follow_erasures()

    assert folded_once(others()).state() == world.state()
    assert bits(folded_once(others()).read(ROWS)) == bits(world.read(ROWS))


def make_log_again(told, topic_ids):
    """An operator deletes it, and it is made anew under its old name."""
    told.published.clear()
    topic_ids[ERASED_EVENTS] = "2nd"


@pytest.mark.parametrize("again", [False, True], ids=["running", "started again"])
@pytest.mark.parametrize("others_told", [0, 5], ids=["shorter", "longer"])
def test_erasures_of_a_log_that_was_made_again_are_followed_too(again, others_told, world):
    fold_one_by_one(world)
    for _ in range(3):
        erase(world)
    world.follow_erasures()
    make_log_again(world.told, world.topic_ids)
    erase(world, "ann")
    for _ in range(others_told):
        erase(world, "nobody")
    if again:
        world.restart()
    world.follow_erasures()

    assert folded_once([]).read(ROWS).tobytes() == world.read(ROWS).tobytes()
    assert not any(len(each.run) for each in _held(world))
    assert {LogPlace(1 + others_told, "2nd")} == _places(world)


def test_place_of_an_older_version_is_in_the_log_that_is_there(world):
    fold_one_by_one(world)
    erase(world)
    world.follow_erasures()
    for key, _ in list(world.state_store.scan(b"i", b"j")):
        world.state_store.commit({}, [key], {})
    world.restart()
    assert {LogPlace(1, "1st")} == _places(world)

    make_log_again(world.told, world.topic_ids)
    erase(world, "ann")
    erase(world, "nobody")
    world.restart()
    world.follow_erasures()
    assert not any(len(each.run) for each in _held(world))


def test_state_of_a_snapshot_follows_a_log_that_was_made_again_from_its_beginning(
    tmp_path, small_tiers
):
    cluster, worker = _filled(tmp_path)
    erase(cluster)
    worker.world.follow_erasures()
    worker.copy()
    make_log_again(cluster.told, cluster.topic_ids)
    erase(cluster, "ann")
    erase(cluster, "nobody")
    fresh = cluster.worker()
    fresh.place(*PARTITIONS)
    fresh.world.follow_erasures()

    assert not any(len(each.run) for each in _held(fresh.world))


def test_end_of_a_round_names_the_entities_whose_events_left(world):
    fold_one_by_one(world)
    erase(world)
    world.follow_erasures()

    assert [entity_sha256("driver", "ben")] == world.entities_out


def test_round_is_gone_through_where_no_moment_is_idle(tmp_path, small_tiers, monkeypatch):
    entities = [("zone",), ("zone", "kind"), ("kind",), ("driver",)]
    monkeypatch.setattr(run_tiers, "PIECE_ROWS", 64)
    views = [a_window_view(f"v-{n}", each, "1h") for n, each in enumerate(entities)]
    world = World(catalogue=a_catalogue(*views), folder=tmp_path / "runs")
    world.fold(*EVENTS)
    for number in range(400):
        at = START + number * HOUR // 64
        world.fold(Event(f"later-{number}", at, at, zone=f"zone-{number % 50}", driver="ann"))
    erase(world)
    world.reader.look()
    waited = 0
    while world.eraser.busy and waited < 200:
        at = START + waited * HOUR // 64
        world.fold(Event(f"last-{waited}", at, at, driver="ann"))
        waited += 1

    assert not world.eraser.busy


def test_kept_answers_are_forgotten_with_the_events(world):
    fold_one_by_one(world)
    before = world.read(ROWS)
    erase(world)
    world.follow_erasures()

    assert bits(before) != bits(world.read(ROWS))
    assert bits(folded_once(others()).read(ROWS)) == bits(world.read(ROWS))


def test_records_that_come_after_the_news_are_left_out_and_passed(world):
    fold_one_by_one(world, EVENTS[:50])
    erase(world, events=EVENTS[:50])
    world.follow_erasures()
    world.fold(*EVENTS[50:])

    assert folded_once(others()).state() == world.state()
    assert 100 == min(at.next_by_partition[0] for at in _contents(world))


def test_replay_of_everything_brings_nothing_back(world):
    fold_one_by_one(world)
    erase(world)
    world.follow_erasures()
    world.offsets.clear()
    lost = World(told=world.told)
    lost.fold(*EVENTS)

    assert folded_once(others()).state() == lost.state()


def test_long_log_is_followed_round_by_round(world, monkeypatch):
    monkeypatch.setattr(erased_events_reader, "ROUND_MESSAGES_MAX", 2)
    fold_one_by_one(world)
    for event in of("ben"):
        tell_erased(world.told, [event], "driver", "ben", LATER)
    world.told.publish([Message(ERASED_EVENTS, None, b"\xff")])  # skipped, and passed
    for _ in range(len(world.told.published)):
        world.follow_erasures()

    assert folded_once(others()).state() == world.state()
    assert {LogPlace(len(world.told.published), "1st")} == _places(world)


def test_view_that_comes_later_is_filled_without_them(world):
    fold_one_by_one(world)
    erase(world)
    world.follow_erasures()
    added = a_window_view("added", ("zone",), "2h")
    world.catalogue = a_catalogue(*VIEWS, added)
    world.place()
    world.offsets.clear()
    world.fold(*EVENTS)
    once = World(catalogue=a_catalogue(*VIEWS, added))
    once.fold(*others())

    assert once.state() == world.state()


def test_what_the_entity_does_later_is_folded(world):
    erase(world, at_us=START)
    world.follow_erasures()
    world.fold(*EVENTS)

    assert folded_once([e for e in EVENTS if e.driver != "ben" or e.at > START]).state() == (
        world.state()
    )


@pytest.mark.parametrize(
    "step",
    ["kit.state.in_batch", "feature.erase.half", "feature.erase.done", "feature.state.merged"],
)
def test_erasure_that_a_crash_cuts_short_is_gone_through_again(tmp_path, small_tiers, step):
    store = LmdbStateStore(tmp_path / "state", map_bytes_max=1 << 24)
    world = World(state_store=store, folder=tmp_path / "runs")
    fold_one_by_one(world)
    erase(world)
    arm(f"{step}:1:raise")
    with pytest.raises(FailpointRaised):
        world.follow_erasures()
    arm(None)
    world.restart()
    world.follow_erasures()

    assert folded_once(others()).state() == world.state()
    assert {LogPlace(1, "1st")} == _places(world)
    store.close()


def test_nothing_of_them_is_in_the_state_store_or_on_the_disk(tmp_path, small_tiers):
    store = LmdbStateStore(tmp_path / "state", map_bytes_max=1 << 24)
    world = World(state_store=store, folder=tmp_path / "runs")
    fold_one_by_one(world)
    erase(world)
    world.follow_erasures()
    stored = b"".join(value for _, value in store.scan(b"", b"\xff"))
    stored += b"".join(file.read_bytes() for file in world.folder.rglob("text"))

    assert b"ride-001" in stored
    assert [] == [event.id for event in of("ben") if event.id.encode() in stored]
    store.close()


def test_state_of_an_older_version_is_brought_up_to_the_log(world):
    fold_one_by_one(world)
    for key, _ in list(world.state_store.scan(b"e", b"f")):
        world.state_store.commit({}, [key], {})
    erase(world)
    world.restart()
    world.follow_erasures()

    assert folded_once(others()).state() == world.state()


def test_places_in_different_logs_have_none_in_common():
    told, also, other = LogPlace(5, "1st"), LogPlace(3, "1st"), LogPlace(4, "2nd")

    assert also == earliest([told, also])
    assert LogPlace(2, "1st") == earliest([told, LogPlace(2)])
    assert BEGINNING == earliest([told, other]) == earliest([])


def test_events_of_one_id_are_told_apart_by_their_time():
    same = [Event("ride", START, START), Event("ride", START + HOUR, START)]
    world = folded_once(same)
    [run, *_] = world.store.runs(world.catalogue.layout_by_view["zone"])
    told = ErasedEvents.of([b"ride"], [START])

    assert [0] == told.rows(run).tolist()


@pytest.mark.parametrize("again", [False, True], ids=["one log", "made again"])
def test_snapshot_is_written_anew_without_them(again, tmp_path, small_tiers):
    cluster, worker = _filled(tmp_path)
    if again:
        for _ in range(3):
            erase(cluster, "nobody")
        worker.world.follow_erasures()
    worker.copy()
    if again:
        make_log_again(cluster.told, cluster.topic_ids)
        cluster.clock.advance(1_000)  # a manifest's name tells the millisecond
    erase(cluster)
    worker.world.follow_erasures()
    worker.copy()
    cluster.clock.advance(2 * HOUR)
    for layout in worker.world.catalogue.layouts():
        worker.snapshots.collect(layout)
    ids = [key for key in cluster.stored() if key.endswith(("text.0", "run.0"))]
    texts = b" ".join(map(cluster.objects.get, ids))

    assert b"ride-001" in texts
    assert [] == [event.id for event in of("ben") if event.id.encode() in texts]


def test_old_snapshot_brings_nothing_back(tmp_path, small_tiers):
    cluster, worker = _filled(tmp_path)
    worker.copy()
    erase(cluster)
    fresh = cluster.worker()
    fresh.place(*PARTITIONS)
    fresh.read_on()
    assert {LogPlace(0, "1st")} == _places(fresh.world)
    fresh.world.follow_erasures()

    assert folded_once(others()).state() == fresh.state()


def test_view_by_the_entity_loses_events_too_whose_ids_nobody_knows(world):
    fold_one_by_one(world)
    tell_erased(world.told, [], "zone", "b", EVENTS[49].at)
    world.follow_erasures()
    once = folded_once([e for e in EVENTS if e.zone != "b" or e.at > EVENTS[49].at])

    assert once.state()["zone"] == world.state()["zone"]
    assert once.state()["zone-kind"] != world.state()["zone-kind"]


def test_worker_that_is_up_to_the_log_cleans_what_it_adopts_from_one_that_is_not(
    tmp_path, small_tiers
):
    cluster, behind = _filled(tmp_path)
    ahead = cluster.worker()
    behind.give_up(1)
    ahead.place(1)
    ahead.read_on()
    behind.copy()
    erase(cluster)
    ahead.world.follow_erasures()
    ahead.place(0)  # the other one ended before it had followed
    assert {LogPlace(0, "1st")} == _places(ahead.world)
    ahead.world.follow_erasures()

    assert folded_once(others()).state() == ahead.state()


def test_runs_that_are_adopted_while_a_round_is_on_are_followed_from_where_they_stand(
    tmp_path, small_tiers
):
    cluster, behind = _filled(tmp_path)
    behind.give_up(1)
    behind.copy()
    ahead = cluster.worker()
    ahead.place(1)
    for _ in range(len(EVENTS)):
        ahead.read_on(1)
        ahead.handler.idle()
    erase(cluster)
    ahead.world.follow_erasures()
    tell_erased(cluster.told, EVENTS[1:2], "driver", "nobody", LATER)
    ahead.world.reader.look()
    assert any(each.large for each in _held(ahead.world))
    ahead.handler.idle()  # the round is on, and looks at the first large run
    ahead.place(0)
    ahead.world.follow_erasures()
    ahead.world.follow_erasures()

    assert folded_once(others(events=EVENTS[:1] + EVENTS[2:])).state() == ahead.state()


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(data=st.data(), events=event_lists(events_max=40))
def test_no_erased_event_comes_back_whatever_moves_or_is_lost(
    tmp_path_factory, small_tiers, data, events
):
    events = [replace(e, driver=DRIVERS[n % 2]) for n, e in enumerate(events)]
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    workers = [cluster.worker(), cluster.worker()]
    workers[0].place(*PARTITIONS)
    steps = st.sampled_from([*STEPS, "erase", "look", "log again"])
    erased_at = {}
    for number, event in enumerate(events):
        part = data.draw(st.sampled_from(PARTITIONS))
        if event.driver not in erased_at:  # ingest refuses it
            cluster.log[part].append(event)
        which = data.draw(st.integers(0, 1))
        step = data.draw(steps)
        if step == "look":
            workers[which].world.reader.look()
        elif step == "erase":
            driver = data.draw(st.sampled_from(DRIVERS))
            tell_erased(cluster.told, of(driver, events[: number + 1]), "driver", driver, LATER)
            erased_at[driver] = number
        elif step == "log again":  # from a copy, say, in whatever order
            cluster.told.published.reverse()
            cluster.topic_ids[ERASED_EVENTS] = str(number)
        else:
            take_step(step, which, workers, cluster, data.draw)
    for worker in workers:
        worker.read_on()
        worker.world.follow_erasures()
        worker.world.follow_erasures()

    left = [event for event in events if event.driver not in erased_at]
    for worker in workers:
        assert _ids(worker.world) <= {event.id.encode() for event in left}
    once = World()
    once.fold(*left)
    last = cluster.worker()
    for worker in workers:
        worker.copy()
        for part in list(worker.owned):
            worker.give_up(part)
    last.place(*PARTITIONS)
    last.read_on()
    last.world.follow_erasures()
    assert once.state() == last.state()


def _held(world):
    return [held for each in _contents(world) for held in each.held]


def _contents(world):
    layouts = world.catalogue.layouts().values()
    found = [world.store.content(layout) for layout in layouts]
    return [each for each in found if each.next_by_partition]


def _places(world):
    """In the log of erased events."""
    return {each.erased_to for each in _contents(world)}


def _ids(world):
    runs = [whole(held.run) for held in _held(world)]
    return {run.ids[row] for run in runs for row in range(len(run))}


def _filled(tmp_path):
    cluster = Cluster(tmp_path)
    worker = cluster.worker()
    worker.place(*PARTITIONS)
    for number, event in enumerate(EVENTS):
        cluster.log[number % 2].append(event)
        worker.read_on()
    for _ in range(100):
        worker.handler.idle()
    return cluster, worker

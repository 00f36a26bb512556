# SPDX-License-Identifier: Apache-2.0
"""Runs merged by tiers, in memory and in folders: the same observations, however they are held."""

import gc
import os
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
from feature_world import (
    DAY,
    HOUR,
    START,
    Event,
    World,
    a_catalogue,
    a_window_view,
    bits,
    event_lists,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.entity import entity_name
from headrace.errors import Busy
from headrace_feature.adapters import run_merges, run_tiers, stored_run
from headrace_feature.adapters.run_eraser import Round
from headrace_feature.adapters.run_files import from_bytes, to_bytes, write_folder
from headrace_feature.adapters.stored_run import StoredRun, head_of
from headrace_feature.domain.entities import KnownDigests
from headrace_feature.domain.observations import COLUMNS, whole
from headrace_feature.domain.tiles import tiles_of
from headrace_kit.state_store import MemoryStateStore

ROWS = [(zone, 1, START + half * HOUR // 2) for zone in "ab" for half in range(16)]
EVENTS = [
    Event(f"ride-{n}", START + n * HOUR // 64, START + n * HOUR // 64, zone=f"zone-{n % 50}")
    for n in range(400)
]


@pytest.fixture
def small_tiers(monkeypatch):
    """Runs of a few rows are large already, and a piece holds a few; some entities are searched."""
    monkeypatch.setattr(stored_run, "SEARCHED_ROWS_MIN", 4)
    monkeypatch.setattr(run_tiers, "ROWS_SMALL_MAX", 12)
    monkeypatch.setattr(run_tiers, "TIER_ROWS", 1)
    monkeypatch.setattr(run_tiers, "PIECE_ROWS", 4)


@pytest.fixture
def world(tmp_path, small_tiers):
    return World(folder=tmp_path / "runs")


def folders(world):
    return sorted(world.folder.glob("*/*"))


def fold_one_by_one(world, events):
    for event in events:
        world.fold(event)


def a_stored_run(folder, run):
    for _ in write_folder(folder, [run]):
        pass
    return StoredRun(folder, head_of([run]))


def finish_merges(world):
    for _ in range(1_000):
        world.loop_handler.idle()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=event_lists(events_max=60), restarts=st.sets(st.integers(0, 59), max_size=3))
def test_answers_and_state_are_those_of_one_run(tmp_path_factory, small_tiers, events, restarts):
    once = World()
    once.fold(*events)
    many = World(folder=tmp_path_factory.mktemp("runs"))
    for number, event in enumerate(events):
        many.fold(event)
        if number in restarts:
            many.restart()

    assert once.state() == many.state()
    assert bits(once.read(ROWS)) == bits(many.read(ROWS))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), events=event_lists(events_max=60))
@pytest.mark.parametrize("searched_rows_min", [1, 4, 60])
def test_rows_of_a_time_are_found_in_a_stored_run_as_in_memory(
    monkeypatch, tmp_path_factory, searched_rows_min, data, events
):
    monkeypatch.setattr(stored_run, "SEARCHED_ROWS_MIN", searched_rows_min)
    world = World()
    world.fold(*events)
    for run in world.store.runs(world.catalogue.layout_by_view["zone"]):
        stored = a_stored_run(tmp_path_factory.mktemp("run") / "1", run)
        entities = np.arange(run.entities.shape[1])
        moments = st.integers(START - HOUR, START + 8 * HOUR)
        since, until = (np.array([data.draw(moments) for _ in entities]) for _ in range(2))
        until = np.maximum(since, until)
        expected, found = run.ranges(entities, since, until), stored.ranges(entities, since, until)
        first, last = stored.bounds(entities)

        for missed in (found[0] - expected[0], expected[1] - found[1]):
            assert (missed <= 0).all()
            assert (-missed < searched_rows_min).all()
        for outside in (first - found[0], found[1] - last):
            assert (outside <= 0).all()


@given(data=st.data(), events=event_lists(events_max=60))
def test_stored_run_gives_the_rows_and_ids_that_are_asked_for(tmp_path_factory, data, events):
    world = World()
    world.fold(*events)
    for run in world.store.runs(world.catalogue.layout_by_view["zone"]):
        stored = a_stored_run(tmp_path_factory.mktemp("run") / "1", run)
        numbers = st.lists(st.integers(0, len(run) - 1), unique=True)
        rows = np.array(data.draw(numbers.map(sorted) | numbers), dtype=np.int64)

        assert to_bytes(run) == to_bytes(whole(stored))
        np.testing.assert_array_equal(run.rows(rows), stored.rows(rows))
        texts = [[ids[n] for n in range(len(rows))] for ids in map(_ids(rows), (run, stored))]
        assert texts[0] == texts[1]
        assert list(map(len, texts[0])) == stored.id_bytes(rows).tolist()
        ones = stored.text_bytes(rows, rows + 1)
        assert ones.tolist() == run.text_bytes(rows, rows + 1).tolist() == list(map(len, texts[0]))


def _ids(rows):
    return lambda run: run.ids_of(rows)


def test_read_takes_of_a_stored_run_little_more_than_the_rows_that_it_asks_for(world, monkeypatch):
    """Whatever the run's length: nothing else of it is in memory."""
    taken = []

    def counted(file, size, place, *, read=os.pread):
        taken.append(size)
        return read(file, size, place)

    fold_one_by_one(world, EVENTS)
    finish_merges(world)
    monkeypatch.setattr(os, "pread", counted)
    monkeypatch.setattr(stored_run, "SEARCHED_ROWS_MIN", 64)
    layout = world.catalogue.layout_by_view["zone"]
    stored = [run for run in world.store.runs(layout) if isinstance(run, StoredRun)]
    world.read([("zone-1", 1, START + 3 * HOUR)], ["zone:count_1h"])
    monkeypatch.undo()

    rows_max = max(int(np.diff(whole(run).starts).max()) for run in stored)
    assert 0 < sum(taken) <= len(stored) * (16 + rows_max * 8 * (COLUMNS + layout.width))


def test_large_runs_live_in_folders_and_few_are_left(world):
    fold_one_by_one(world, EVENTS)
    finish_merges(world)

    assert folders(world)
    for layout in world.catalogue.layouts().values():
        assert len(world.store.runs(layout)) < 4 * 6
    once = World()
    once.fold(*EVENTS)
    assert once.state() == world.state()


def test_restart_finds_large_runs_and_forgets_a_merge_that_did_not_end(world):
    fold_one_by_one(world, EVENTS[:200])
    before = world.state()
    (unfinished := world.folder / ("0" * 16) / "9").mkdir(parents=True)
    (unfinished / "matrix").write_bytes(b"half")
    world.restart()

    assert not unfinished.exists()
    assert before == world.state()
    fold_one_by_one(world, EVENTS[200:])
    once = World()
    once.fold(*EVENTS)
    assert once.state() == world.state()


def test_reader_goes_on_with_runs_that_a_merge_replaced(world):
    fold_one_by_one(world, EVENTS[:100])
    layout = world.catalogue.layout_by_view["zone"]
    held = world.store.runs(layout)
    before = [to_bytes(whole(run)) for run in held]
    fold_one_by_one(world, EVENTS[100:])
    finish_merges(world)

    assert before == [to_bytes(whole(run)) for run in held]


def test_outlived_runs_and_their_folders_go(tmp_path, small_tiers):
    world = World(folder=tmp_path / "runs", keep=DAY)
    fold_one_by_one(world, EVENTS)
    finish_merges(world)
    assert folders(world)
    world.fold(Event("later", START + 90 * DAY, START + 90 * DAY))

    assert not folders(world)
    only = World(keep=DAY)
    only.fold(Event("later", START + 90 * DAY, START + 90 * DAY))
    assert only.state() == world.state()


def test_merge_whose_sources_are_outlived_is_given_up(tmp_path, small_tiers):
    world = World(folder=tmp_path / "runs", keep=DAY)
    fold_one_by_one(world, EVENTS[:16])
    world.loop_handler.idle()
    world.fold(Event("later", START + 90 * DAY, START + 90 * DAY))
    finish_merges(world)

    assert {1} == {len(world.store.runs(each)) for each in world.catalogue.layouts().values()}


def test_view_that_is_taken_back_leaves_no_folder(world):
    fold_one_by_one(world, EVENTS)
    world.catalogue = world.catalogue.without("view", "zone").without("view", "zone-kind")
    world.place()

    assert not folders(world)
    assert not list(world.state_store.scan(b"", b"\xff"))


def test_full_folder_is_busy_and_reads_go_on(tmp_path, small_tiers):
    world = World(folder=tmp_path / "runs", folder_bytes_max=10_000)
    with pytest.raises(Busy, match="STATE_FULL"):
        fold_one_by_one(world, EVENTS)

    stored = world.offsets[0] - 1
    once = World()
    once.fold(*EVENTS[:stored])
    assert once.state() == world.state()


def test_run_comes_back_from_its_bytes():
    world = World()
    world.fold(*EVENTS)
    (run,) = world.store.runs(world.catalogue.layout_by_view["zone"])
    again = from_bytes(to_bytes(run))

    np.testing.assert_array_equal(run.matrix, again.matrix)
    assert to_bytes(run) == to_bytes(again)
    with pytest.raises(ValueError, match="begins with"):
        from_bytes(b"zip1" + to_bytes(run)[4:])


def test_layout_of_another_topic_is_empty_and_read_by_nobody():
    world = World()
    world.fold(*EVENTS[:9])
    layout = world.catalogue.layout_by_view["zone"]
    assert not world.store.follow(layout, "first")

    assert world.store.follow(layout, "second")
    assert ([], {}) == (world.store.runs(layout), dict(world.store.next_by_partition(layout)))
    assert {0, 1} == set(world.store.owned(layout)) == set(world.store.restoring(layout))
    world.restart()
    assert "first" == world.store.topic_id(layout)  # as it was placed again, of the world's topic


def test_entities_that_share_a_first_half_are_kept_apart(monkeypatch):
    def digest(name):
        return b"\0" * 8 + name.rjust(8, b"\0")

    of_values = KnownDigests(lambda texts: digest(entity_name(texts)), 0)
    monkeypatch.setattr("headrace_feature.domain.entities._of_values", of_values)
    monkeypatch.setattr("headrace_feature.domain.entities._of_names", KnownDigests(digest, 0))
    world = World(state_store=MemoryStateStore())
    zones = ["c", "a", "b", "a", "c"]
    world.fold(*(Event(f"r{n}", START + n, START + n, zone=z) for n, z in enumerate(zones)))

    read = world.read([(z, 1, START + HOUR // 2) for z in "abcd"], ["zone:count_1h"])
    assert [2, 1, 2, 0] == read[:, 0].tolist()


def most_small_rows(world, events):
    """In memory, of all layouts, after each event was folded."""
    layouts, most = world.catalogue.layouts().values(), 0
    for event in events:
        world.fold(event)
        held = [each for layout in layouts for each in world.store.content(layout).held]
        most = max(most, sum(len(each.run) for each in held if not each.large))
    return most


def test_small_runs_do_not_wait_for_a_long_merge(world):
    assert most_small_rows(world, EVENTS) <= 4 * run_tiers.ROWS_SMALL_MAX


def test_small_runs_are_merged_at_once_where_too_many_are_held(world, monkeypatch):
    monkeypatch.setattr(run_merges, "SMALL_ROWS_MAX", 20)

    assert most_small_rows(world, EVENTS) <= 20 + run_tiers.ROWS_SMALL_MAX


def test_no_layout_waits_for_ever_where_no_moment_is_idle(tmp_path, small_tiers):
    entities = [("zone",), ("zone", "kind"), ("kind",), ("driver",)]
    views = [a_window_view(f"v-{n}", each, "1h") for n, each in enumerate(entities)]
    world = World(catalogue=a_catalogue(*views), folder=tmp_path / "runs")
    most = 0
    for number in range(700):
        at = START + number * HOUR // 64
        world.fold(Event(f"ride-{number}", at, at, zone=f"zone-{number % 50}", driver="ann"))
        layouts = world.catalogue.layouts().values()
        most = max(most, *(len(world.store.runs(each)) for each in layouts))

    assert most <= 24


def test_small_runs_are_merged_at_once_while_an_erasure_goes_on(world, monkeypatch):
    monkeypatch.setattr(run_merges, "SMALL_ROWS_MAX", 20)
    fold_one_by_one(world, EVENTS[:100])
    world.eraser.offer(Round(0, 1 << 30, [], {}))
    monkeypatch.setattr(world.eraser, "_erase", lambda found: repeat(None))

    assert most_small_rows(world, EVENTS[100:]) <= 20 + run_tiers.ROWS_SMALL_MAX


def test_stored_run_that_was_cut_is_not_read_as_a_shorter_one(tmp_path):
    world = World()
    world.fold(*EVENTS)
    run = world.store.runs(world.catalogue.layout_by_view["zone"])[0]
    stored = a_stored_run(tmp_path / "1", run)
    os.truncate(tmp_path / "1" / "matrix", 8)

    with pytest.raises(EOFError, match="ends before"):
        stored.rows(np.arange(len(run)))


def test_stored_run_closes_its_files_when_it_is_let_go(tmp_path):
    world = World()
    world.fold(*EVENTS)
    run = world.store.runs(world.catalogue.layout_by_view["zone"])[0]
    stored = a_stored_run(tmp_path / "1", run)
    tiles_of(stored, 0).column(stored, 0, "int64")
    gc.disable()  # it is not a cycle that keeps them
    try:
        del stored
        links = [os.path.realpath(each) for each in Path("/proc/self/fd").iterdir()]
    finally:
        gc.enable()

    assert not [each for each in links if str(tmp_path) in each]

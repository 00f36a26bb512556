# SPDX-License-Identifier: Apache-2.0
"""Runs merged by tiers, in memory and in folders: the same observations, however they are held."""

from itertools import pairwise

import numpy as np
import pytest
from feature_world import DAY, HOUR, START, Event, World, bits, event_lists
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.entity import entity_name
from headrace.errors import Busy
from headrace_feature.adapters import run_tiers
from headrace_feature.adapters.run_files import from_bytes, to_bytes
from headrace_feature.domain import observations
from headrace_feature.domain.entities import KnownDigests
from headrace_feature.domain.observations import EVENT
from headrace_kit.state_store import MemoryStateStore

ROWS = [(zone, 1, START + half * HOUR // 2) for zone in "ab" for half in range(16)]
EVENTS = [
    Event(f"ride-{n}", START + n * HOUR // 64, START + n * HOUR // 64, zone=f"zone-{n % 50}")
    for n in range(400)
]


@pytest.fixture
def small_tiers(monkeypatch):
    """Runs of a few rows are large already, and a piece holds a few; some are searched by row."""
    monkeypatch.setattr(observations, "LINE_ROWS_MAX", 24)
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
@pytest.mark.parametrize("line_rows_max", [0, 60])
def test_rows_of_a_time_are_found_in_a_long_run_as_in_a_short_one(
    monkeypatch, line_rows_max, data, events
):
    monkeypatch.setattr(observations, "LINE_ROWS_MAX", line_rows_max)
    world = World()
    world.fold(*events)
    for run in world.store.runs(world.catalogue.layout_by_view["zone"]):
        entities = np.arange(run.entities.shape[1])
        moments = st.integers(START - HOUR, START + 8 * HOUR)
        since, until = (np.array([data.draw(moments) for _ in entities]) for _ in range(2))
        until = np.maximum(since, until)
        of = [run.matrix[low:high, EVENT] for low, high in pairwise(run.starts.tolist())]
        first = [own.searchsorted(at, "left") for own, at in zip(of, since, strict=True)]
        last = [own.searchsorted(at, "right") for own, at in zip(of, until, strict=True)]
        expected = [(run.starts[:-1] + edge).tolist() for edge in (first, last)]

        assert expected == [edge.tolist() for edge in run.ranges(entities, since, until)]


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
    before = [to_bytes(run) for run in held]
    fold_one_by_one(world, EVENTS[100:])
    finish_merges(world)

    assert before == [to_bytes(run) for run in held]


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

# SPDX-License-Identifier: Apache-2.0
"""Positions, refilled views, outlived tiles and bad records, in memory and on LMDB."""

import json
from dataclasses import replace

import numpy as np
import pytest
from feature_world import (
    DAY,
    HOUR,
    REQUEST_VIEW,
    START,
    TOPIC,
    VIEWS,
    Event,
    World,
    a_catalogue,
    a_window_view,
    bits,
)

from headrace.errors import Busy, Invalid, Unavailable
from headrace_feature.adapters import record_folder
from headrace_feature.adapters.conversions import to_observations
from headrace_feature.adapters.run_store import RunStore
from headrace_kit.kafka import Partition
from headrace_kit.state_store import LmdbStateStore, MemoryStateStore
from headrace_kit.testing import a_batch

COUNT = ["zone:count_1h"]
EVENTS = [Event(f"ride-{n}", START + n * HOUR // 8, START + n * HOUR // 8) for n in range(16)]
ROWS = [("a", 1, START + n * HOUR // 3) for n in range(9)]


@pytest.fixture(params=["memory", "lmdb"])
def store(request, tmp_path):
    memory = request.param == "memory"
    made = MemoryStateStore() if memory else LmdbStateStore(tmp_path, map_bytes_max=1 << 22)
    yield made
    made.close()


@pytest.fixture
def world(store):
    return World(state_store=store)


def test_restart_goes_on_behind_what_is_stored(world):
    world.fold(*EVENTS[:9])
    before = bits(world.read(ROWS))
    world.restart()

    assert {Partition(TOPIC, 0): 9} == world.place()
    assert before == bits(world.read(ROWS))


def test_records_seen_before_a_crash_change_nothing(world):
    world.fold(*EVENTS)
    before = world.state()
    world.offsets.clear()
    world.restart()
    world.fold(*EVENTS)

    assert before == world.state()
    assert {Partition(TOPIC, 0): 16} == world.place()


def test_new_view_starts_at_the_beginning_and_the_others_stay(world):
    world.fold(*EVENTS)
    added = a_window_view("added", ("zone",), "2h")
    world.catalogue = a_catalogue(*VIEWS, REQUEST_VIEW, added)
    assert {} == world.place()

    before = world.read(ROWS, COUNT)
    with pytest.raises(Unavailable, match="RESTORING"):
        world.read(ROWS, ["added:count_2h"])
    world.offsets.clear()
    world.fold(*EVENTS[:6])
    np.testing.assert_array_equal(before, world.read(ROWS, COUNT))
    assert {Partition(TOPIC, 0): 6} == world.place()
    world.fold(*EVENTS[6:])
    assert [[9.0]] == world.read([("a", 1, START + HOUR)], ["added:count_2h"]).tolist()
    assert 16 == world.freshness.total()


def test_view_that_came_while_records_flow_waits_until_it_is_placed(world):
    world.fold(*EVENTS[:8])
    world.catalogue = a_catalogue(*VIEWS, REQUEST_VIEW, a_window_view("added", ("zone",), "2h"))
    world.fold(*EVENTS[8:])

    assert {} == world.place()
    with pytest.raises(Unavailable, match="RESTORING"):
        world.read(ROWS, ["added:count_2h"])


def test_view_takes_on_only_the_partitions_it_was_placed_for(world):
    world.fold(*EVENTS[:8], partition=1)
    world.catalogue = a_catalogue(*VIEWS, REQUEST_VIEW, a_window_view("added", ("zone",), "2h"))
    world.loop_handler.positions([Partition(TOPIC, 0)])
    world.fold(*EVENTS[8:], partition=1)

    assert {} == world.place()


def test_view_with_the_same_needs_keeps_its_tiles(world):
    world.fold(*EVENTS)
    renamed = a_window_view("other-name", ("zone",), "3h", "2h")
    world.catalogue = a_catalogue(*VIEWS, REQUEST_VIEW, renamed)

    assert {Partition(TOPIC, 0): 16} == world.place()
    assert [[9.0]] == world.read([("a", 1, START + HOUR)], ["other-name:count_2h"]).tolist()


def test_view_that_is_taken_back_leaves_nothing(world):
    world.fold(*EVENTS)
    world.catalogue = world.catalogue.without("view", "zone").without("view", "zone-kind")
    world.place()
    world.restart()

    assert {} == world.state()
    assert [] == list(world.state_store.scan(b"", b"s"))


def test_last_view_of_a_stream_leaves_nothing_once_its_partitions_are_gone(world):
    """Nothing is placed after it: the worker reads no topic any more."""
    world.fold(*EVENTS)
    world.catalogue = world.catalogue.without("view", "zone").without("view", "zone-kind")
    world.loop_handler.idle()
    before = list(world.state_store.scan(b"", b"s"))
    world.loop_handler.forget([Partition(TOPIC, 0), Partition(TOPIC, 1)])
    world.loop_handler.idle()

    assert before
    assert [] == list(world.state_store.scan(b"", b"s"))


def test_state_of_partitions_that_others_took_stays_while_its_views_do(world):
    world.fold(*EVENTS)
    before = world.state()
    world.loop_handler.forget([Partition(TOPIC, 0), Partition(TOPIC, 1)])
    world.loop_handler.idle()

    assert before == world.state()


def test_view_that_comes_back_is_filled_again(world):
    world.fold(*EVENTS)
    before, catalogue = world.state(), world.catalogue
    world.catalogue = catalogue.without("view", "zone")
    world.place()
    world.catalogue = catalogue
    assert {} == world.place()
    world.offsets.clear()
    world.fold(*EVENTS)

    assert before == world.state()


def test_outlived_tiles_go(store):
    world = World(state_store=store, keep=2 * DAY)
    world.fold(*EVENTS)
    world.fold(Event("later", START + 9 * DAY, START + 9 * DAY))
    only = World(keep=2 * DAY)
    only.fold(Event("later", START + 9 * DAY, START + 9 * DAY))

    assert only.state() == world.state()
    world.fold(*(replace(event, id=f"{event.id}-late") for event in EVENTS))
    assert only.state() == world.state()


def test_full_store_is_busy_and_keeps_what_it_had(tmp_path):
    store = LmdbStateStore(tmp_path, map_bytes_max=1 << 18)
    world = World(state_store=store)
    world.fold(*EVENTS)
    before = world.state()
    flood = [Event(f"e{n}", START + n * HOUR, START + n * HOUR) for n in range(3_000)]
    with pytest.raises(Busy, match="STATE_FULL"):
        world.fold(*flood)

    assert before == world.state()
    store.close()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "EMPTY"),
        (b"\xff", "DECODE_ERROR"),
        (b"[1]", "DECODE_ERROR"),
        (b"{}\n{}", "DECODE_ERROR"),
        (b'{"riders":1.5,', "DECODE_ERROR"),
        ({"riders": 1.5}, "DECODE_ERROR"),
        ({"riders": "1"}, "DECODE_ERROR"),
        ({"fare": "1"}, "DECODE_ERROR"),
        ({"riders": 2**63}, "DECODE_ERROR"),
        ({"_id": None}, "BAD_ID"),
        ({"_id": ""}, "BAD_ID"),
        ({"_event_us": None}, "BAD_TIMESTAMP"),
        ({"_event_us": -1}, "BAD_TIMESTAMP"),
        ({"_known_us": 2**62}, "BAD_TIMESTAMP"),
        ({"_known_us": "noon"}, "DECODE_ERROR"),
        ({"_published_ms": "now"}, "DECODE_ERROR"),
    ],
)
def test_bad_record_is_refused_with_its_reason(value, reason):
    record = EVENTS[0].record()
    if isinstance(value, dict):
        value = json.dumps(json.loads(record.value) | value).encode()
    world = World()
    with pytest.raises(Invalid, match=reason):
        world.loop_handler.handle(a_batch([EVENTS[1].record(), replace(record, value=value)]))

    assert {} == world.state()


def test_nothing_is_answered_before_it_is_known_what_is_ours(world):
    world.fold(*EVENTS)
    before = world.read(ROWS, COUNT)
    world.store = RunStore(world.state_store, world.folder, folder_bytes_max=1 << 30)
    with pytest.raises(Unavailable, match="RESTORING"):
        world.read(ROWS, COUNT)

    world.restart()
    np.testing.assert_array_equal(before, world.read(ROWS, COUNT))


def test_freshness_is_from_published_to_readable():
    world = World()
    now_ms = world.clock.now_us() // 1_000
    events = enumerate(EVENTS[:4])
    world.loop_handler.handle(
        a_batch([e.record(offset=n, published_ms=now_ms - 100 * n) for n, e in events])
    )

    assert 4 == world.freshness.total()
    assert 100 <= world.freshness.quantile_ms(0.5) < 105
    assert 300 <= world.freshness.quantile_ms(0.99) < 315


def test_no_freshness_before_the_first_record():
    assert World().freshness.quantile_ms(0.5) is None


class Death(BaseException):
    """The process is gone, and nobody could do anything."""


@pytest.fixture
def deadly(monkeypatch):
    """One record ends every process that reads it."""

    def read(part, *arguments):
        if b"ride-3" in b"".join(value or b"" for value in part.values()):
            raise Death
        return to_observations(part, *arguments)

    monkeypatch.setattr(record_folder, "to_observations", read)


def test_record_that_ends_the_process_three_times_is_refused_and_the_others_count(world, deadly):
    for _ in range(3):
        with pytest.raises(Death):
            world.fold(*EVENTS[:6])
        world.offsets.clear()
        world.restart()

    with pytest.raises(Invalid, match=r"POISON_CRASH.*offset=3"):
        world.fold(*EVENTS[:6])
    assert {Partition(TOPIC, 0): 3} == world.place()
    world.loop_handler.set_aside(EVENTS[3].record(partition=0, offset=3))
    world.offsets[0] = 4
    world.fold(*EVENTS[4:6])
    assert [[5.0]] == world.read([("a", 1, START + HOUR - 1)], COUNT).tolist()


def test_record_that_is_refused_is_no_suspect(world):
    bad = replace(EVENTS[0].record(partition=0, offset=0), value=b"{")
    with pytest.raises(Invalid):
        world.loop_handler.handle(a_batch([bad]))

    assert {} == world.attempt_log.read()

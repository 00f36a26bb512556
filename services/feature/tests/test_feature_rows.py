# SPDX-License-Identifier: Apache-2.0
"""Published rows are the service's own answers, for as long as they say so."""

import hashlib
import json
from contextlib import suppress

import numpy as np
from feature_world import (
    DAY,
    HOUR,
    MINUTE,
    START,
    Event,
    World,
    a_catalogue,
    a_view,
    bits,
    event_lists,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import topics
from headrace.application import definition_json
from headrace.errors import Unavailable
from headrace.feature_rows import FeatureRowTable
from headrace.feature_view import features_by_name
from headrace_feature.adapters import row_teller
from headrace_feature.domain.long_windows import ROWS_MIN
from headrace_kit import backoff
from headrace_kit.erased_entities import Entity, entity_sha256
from headrace_kit.state_store import MemoryStateStore
from headrace_kit.testing import MemoryPublisher

FEATURES = {
    "count_1h": {"aggregate": "count", "window": "1h"},
    "mean_3h": {"aggregate": "mean", "column": "fare", "window": "3h", "default": -1},
    "last_3h": {"aggregate": "last_n", "n": 2, "column": "riders", "window": "3h"},
    "whole_1h": {"aggregate": "count", "window": "1h", "tumbling": True},
    "drivers": {"aggregate": "distinct", "column": "driver", "window": "2h"},
    "life": {"aggregate": "sum", "column": "riders", "window": "lifetime"},
    "share": {"ratio": ["count_1h", "whole_1h"], "default": 0},
}
VIEW = a_view(FEATURES, publish_rows=True, ttl="5h")
NAMES = tuple(f"zone:{name}" for name in features_by_name(VIEW))


def a_world(view=VIEW, **more) -> World:
    return World(catalogue=a_catalogue(view), **more)


def a_ride(id: str, at: int, **more) -> Event:
    return Event(id, at, more.pop("known", at), **more)


def a_table(world, *, entities_max=100) -> FeatureRowTable:
    table = FeatureRowTable(entities_max=entities_max)
    for message in world.publisher.published:
        table.take(message.key, message.value)
    return table


def answers(row) -> np.ndarray:
    return np.frombuffer(row.values, "<f4").reshape(1, -1)


def read(world, zone, as_of) -> np.ndarray:
    return world.read_columns(NAMES, {"zone": [zone]}, [as_of])


def test_row_is_the_answer_from_its_record_until_an_observation_leaves_a_window():
    world = a_world(a_view({"count_1h": FEATURES["count_1h"]}, publish_rows=True))
    world.fold(a_ride("one", START), a_ride("two", START + MINUTE))
    table = a_table(world)

    row = table.find("a", START + MINUTE)
    assert (("count_1h",), 2.0) == (row.features, answers(row)[0, 0])
    assert (START + MINUTE, START + HOUR) == (row.from_us, row.until_us)
    assert None is table.find("a", START + MINUTE - 1)
    assert row is table.find("a", START + HOUR - 1)
    assert None is table.find("a", START + HOUR)
    assert None is table.find("b", START + MINUTE)


def test_row_begins_when_its_record_is_known():
    world = a_world()
    world.fold(a_ride("late", START, known=START + MINUTE))

    assert START + MINUTE == a_table(world).find("a", START + MINUTE).from_us


def test_row_says_what_is_in_it_and_of_which_definition():
    world = a_world()
    world.fold(a_ride("one", START), a_ride("two", START), partition=1)
    row = a_table(world).find("a", START)

    digest = hashlib.sha256(definition_json(VIEW)).hexdigest()
    assert (1, 2, digest) == (row.partition, row.next_offset, row.definition_digest)


def test_view_that_does_not_publish_sends_nothing():
    world = a_world(a_view(FEATURES))
    world.fold(a_ride("one", START))

    assert [] == world.publisher.published


def test_older_row_that_comes_again_changes_nothing():
    world = a_world()
    world.fold(a_ride("one", START))
    world.fold(a_ride("two", START + 1))
    table = a_table(world)
    first = world.publisher.published[0]
    table.take(first.key, first.value)

    assert 2.0 == answers(table.find("a", START + 1))[0, 0]


def test_row_of_a_topic_that_was_made_again_is_no_older_one():
    world = a_world()
    for number in range(3):
        world.fold(a_ride(f"ride-{number}", START + number))
    world.publisher.errors.append(Unavailable("DELIVERY_UNKNOWN", topic="t"))
    with suppress(Unavailable):  # its row waits, and is sent behind the others
        world.fold(a_ride("ride-3", START + 3))
    world.topic_ids["rides"], world.offsets = "second", {}
    world.place()
    world.loop_handler.idle()
    world.fold(a_ride("new", START + MINUTE))

    row = a_table(world).find("a", START + MINUTE)
    assert (1, "second") == (row.next_offset, row.topic_id)


def test_entities_beyond_the_bound_are_left_out_and_counted():
    world = a_world()
    for number, zone in enumerate("abb"):
        world.fold(a_ride(f"ride-{number}", START, zone=zone))
    table = a_table(world, entities_max=1)

    assert (1, 2) == (len(table), table.left_out)


def a_world_whose_row_was_not_delivered():
    """Of one ride, and started again since."""
    world = a_world()
    world.publisher.errors.append(Unavailable("DELIVERY_UNKNOWN", topic="t"))
    with suppress(Unavailable):
        world.fold(a_ride("one", START))
    world.restart()
    return world


def test_undelivered_row_is_sent_after_a_restart_as_it_is_then():
    world = a_world_whose_row_was_not_delivered()
    world.fold(a_ride("two", START))
    (message,) = world.publisher.published
    assert b"a" == message.key
    assert 2.0 == answers(a_table(world).find("a", START))[0, 0]

    world.restart()
    world.loop_handler.idle()
    assert 1 == len(world.publisher.published)


def test_undelivered_row_is_sent_after_a_restart_though_no_record_follows():
    """Another record of the entity would make good for a row that was lost."""
    world = a_world_whose_row_was_not_delivered()
    world.loop_handler.idle()

    (message,) = world.publisher.published
    assert b"a" == message.key
    assert 1.0 == answers(a_table(world).find("a", START))[0, 0]


class PublisherWithoutATopic(MemoryPublisher):
    """Of one view."""

    def __init__(self, missing: str) -> None:
        super().__init__()
        self.missing: str | None = missing

    def publish(self, messages, *, timeout_s=10.0):
        if any(message.topic == self.missing for message in messages):
            raise Unavailable("TOPIC_MISSING", topic=self.missing)
        super().publish(messages, timeout_s=timeout_s)


def views_told(world) -> list[str]:
    return [topics.FEATURE_ROWS.part_of(message.topic) for message in world.publisher.published]


def test_missing_topic_of_rows_holds_up_no_fold_and_no_other_view(monkeypatch):
    monkeypatch.setattr(backoff, "FIRST_S", 0.0)
    other = a_view({"count_1h": FEATURES["count_1h"]}, name="other", publish_rows=True)
    world = World(catalogue=a_catalogue(VIEW, other))
    world.publisher = PublisherWithoutATopic(topics.FEATURE_ROWS.of("zone"))
    world.restart()
    for number in range(2):
        world.fold(a_ride(f"ride-{number}", START))

    assert 2.0 == world.read_columns(("zone:count_1h",), {"zone": ["a"]}, [START])[0, 0]
    assert ["other", "other"] == views_told(world)
    assert not world.rows.ready()

    world.publisher.missing = None
    world.loop_handler.idle()
    assert ["other", "other", "zone"] == views_told(world)
    assert 2.0 == answers(a_table(world).find("a", START))[0, 0]
    assert world.rows.ready()


def test_view_whose_topic_is_missing_is_not_waited_for_once_it_publishes_no_more():
    world = a_world()
    world.publisher = PublisherWithoutATopic(topics.FEATURE_ROWS.of("zone"))
    world.restart()
    world.fold(a_ride("one", START))
    assert not world.rows.ready()

    world.catalogue = a_catalogue(a_view(FEATURES))
    world.loop_handler.idle()
    assert world.rows.ready()


def test_topic_of_rows_that_is_missing_is_looked_for_with_back_off(monkeypatch):
    monkeypatch.setattr(backoff, "FIRST_S", 60.0)
    world = a_world()
    world.publisher = PublisherWithoutATopic(topics.FEATURE_ROWS.of("zone"))
    world.restart()
    world.fold(a_ride("one", START))
    world.publisher.missing = None
    world.loop_handler.idle()

    assert [] == views_told(world)


def test_row_waits_until_somebody_says_whose_its_partition_is():
    world = a_world()
    world.publisher.errors.append(Unavailable("DELIVERY_UNKNOWN", topic="t"))
    with suppress(Unavailable):
        world.fold(a_ride("one", START))
    world.owner = False
    world.restart()
    world.loop_handler.idle()
    assert [] == world.publisher.published

    world.place()
    world.loop_handler.idle()
    assert [b"a"] == [message.key for message in world.publisher.published]


def test_view_that_is_filled_sends_its_rows_when_it_can_be_read():
    world = a_world(a_view({"count_1h": FEATURES["count_1h"]}))
    world.fold(a_ride("one", START))
    world.fold(a_ride("two", START, zone="b"))
    world.catalogue = a_catalogue(VIEW)  # looks farther back
    world.offsets.clear()
    world.place()
    world.fold(a_ride("one", START))
    assert [] == world.publisher.published

    world.fold(a_ride("two", START, zone="b"))
    assert {b"a", b"b"} == {message.key for message in world.publisher.published}


def test_rows_are_read_by_the_catalogue_that_they_were_found_in():
    world, applied = a_world(), a_catalogue(a_view({"other": FEATURES["life"]}, publish_rows=True))
    owned = world.store.owned

    def applied_meanwhile(layout):
        world.catalogue = applied
        return owned(layout)

    world.store.owned = applied_meanwhile
    world.fold(a_ride("one", START))

    assert tuple(features_by_name(VIEW)) == a_table(world).find("a", START).features


def test_changes_of_a_view_that_publishes_no_more_are_removed():
    other = a_view({"count_1h": FEATURES["count_1h"]}, name="other", publish_rows=True)
    world = World(catalogue=a_catalogue(VIEW, other))
    world.publisher.errors += [Unavailable("DELIVERY_UNKNOWN", topic="t")] * 2
    with suppress(Unavailable):
        world.fold(a_ride("one", START))
    world.catalogue = a_catalogue(a_view(FEATURES), other)
    with suppress(Unavailable):
        world.loop_handler.idle()

    (left,) = [value for _, value in world.state_store.scan(b"r", b"s")]
    assert "other" == json.loads(left)[0]


class StateThatCounts(MemoryStateStore):
    """How many values were taken from scans."""

    scanned = 0

    def scan(self, first, last_excluded):
        for found in super().scan(first, last_excluded):
            self.scanned += 1
            yield found


def a_world_of_waiting_changes(many) -> World:
    """Of a view that publishes no more, and whose partitions others have."""
    world = a_world(state_store=StateThatCounts())
    world.publisher.errors.append(Unavailable("DELIVERY_UNKNOWN", topic="t"))
    with suppress(Unavailable):
        world.fold(*(a_ride(f"ride-{n}", START, zone=f"zone-{n}") for n in range(many)))
    world.owner = False
    world.restart()
    return world


def test_changes_are_looked_through_some_at_a_time(monkeypatch):
    monkeypatch.setattr(row_teller, "TIDIED_MAX", 2)
    world = a_world_of_waiting_changes(7)
    world.catalogue = a_catalogue(a_view(FEATURES))
    scanned, waiting = [], []
    for _ in range(4):
        before = world.state_store.scanned
        world.rows.send()
        scanned.append(world.state_store.scanned - before)
        waiting.append(len(waiting_of(world)))

    assert [2, 2, 2, 1] == scanned
    assert [5, 3, 1, 0] == waiting


def test_erasure_amid_the_look_through_changes_is_found_by_the_next_one(monkeypatch):
    monkeypatch.setattr(row_teller, "TIDIED_MAX", 2)
    world = a_world_of_waiting_changes(5)
    world.rows.send()
    for number in range(5):
        world.erased.take(Entity("zone", entity_sha256("zone", f"zone-{number}"), START))
    for _ in range(6):
        world.rows.send()

    assert [] == waiting_of(world)


def waiting_of(world):
    return list(world.state_store.scan(b"r", b"s"))


def test_entity_whose_windows_reach_behind_all_history_is_taken_back():
    view = a_view({"count_1h": FEATURES["count_1h"]}, publish_rows=True)
    world = a_world(view, keep=DAY)
    world.fold(a_ride("old", START))
    assert 1 == len(a_table(world))
    world.fold(a_ride("new", START + 30 * DAY, zone="b"))
    world.fold(a_ride("older", START + 28 * DAY + 23 * HOUR, zone="a"))

    table = a_table(world)
    assert None is table.find("a", START)
    assert 1.0 == answers(table.find("b", START + 30 * DAY))[0, 0]


def test_entity_of_very_many_observations_is_never_answered_from_its_row():
    sums = a_view({"count_1h": FEATURES["count_1h"]}, publish_rows=True)
    world = a_world(sums)
    world.fold(*(a_ride(f"r-{number:05}", START + number) for number in range(ROWS_MIN)))

    assert None is a_table(world).find("a", START + ROWS_MIN - 1)


MOMENTS = st.integers(-2 * HOUR, 14 * HOUR).map(lambda us: START + us)


@settings(deadline=None, max_examples=80)
@given(data=st.data(), events=event_lists())
def test_row_that_is_found_equals_the_services_answer(data, events):
    world, table, taken = a_world(), FeatureRowTable(entities_max=100), 0
    while events:
        count = data.draw(st.integers(1, 5))
        batch, events = events[:count], events[count:]
        fails = data.draw(st.integers(0, 3)) == 0
        world.publisher.errors += [Unavailable("DELIVERY_UNKNOWN", topic="t")] * fails
        partition = {"a": 0, "b": 1, None: 0}
        for number in (0, 1):
            part = [event for event in batch if partition[event.zone] == number]
            if part:
                with suppress(Unavailable):
                    world.fold(*part, partition=number)
        if data.draw(st.integers(0, 3)) == 0:
            world.restart()
        world.publisher.errors.clear()
        world.loop_handler.idle()
        published = world.publisher.published
        repeats = data.draw(st.lists(st.sampled_from(published), max_size=2)) if published else []
        for message in (*published[taken:], *repeats):  # as from a worker that was paused
            table.take(message.key, message.value)
        taken = len(published)
        changes = [event.at + delta for event in batch for delta in (0, HOUR, HOUR - 1, 3 * HOUR)]
        for as_of in [data.draw(MOMENTS), *changes, *(event.known for event in batch)]:
            for zone in "ab":
                row = table.find(zone, as_of)
                if row is not None:
                    assert bits(read(world, zone, as_of)) == bits(answers(row))

# SPDX-License-Identifier: Apache-2.0
"""What an answer says of its own age: event times of its values, and until when all is known."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from feature_definitions import views
from feature_world import (
    HOUR,
    MOMENTS,
    REQUEST_VIEW,
    SECOND,
    START,
    VIEWS,
    Event,
    World,
    a_catalogue,
    a_view,
    event_lists,
)
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import Conflict, Invalid, Unavailable
from headrace.feature_view import WindowFeature, features_by_name
from headrace_feature.adapters.ends_watch import EndsWatch
from headrace_feature.domain.known_until import ASKINGS_MAX, KnownUntil, lowest
from headrace_feature.domain.log_place import LogPlace
from headrace_feature.domain.online_query import GetOnlineFeatures
from headrace_feature.handlers import answer_together, get_online_features

ROW = {"zone": ["a"], "kind": ["1"], "night": ["true"]}
COUNT = ["zone:count_1h"]


def times(world, features, moment=START + HOUR // 2, **columns):
    asked = world.ask(features, {**ROW, **columns}, [moment], include_times=True)
    return asked.event_us[0].tolist()


def test_each_value_has_the_time_of_the_newest_observation_with_a_value():
    world = World()
    world.fold(
        Event("old", START - 2 * HOUR, START),
        Event("e", START, START),
        Event("no-fare", START + 1, START + 1, fare=None),
        Event("not-known", START + 2, START + HOUR),
    )
    features = ["zone:count_1h", "zone:sum_fare_1h", "zone:last_fare_3h", "zone:max_riders_1h"]

    assert [START + 1, START, START, START + 1] == times(world, features)


def test_value_that_rests_on_nothing_has_no_time():
    features = ["zone:count_1h", "zone:sum_fare_1h", "ask:distance"]

    assert [-1, -1, -1] == times(World(), features, distance=np.array([2.5]))


def test_times_come_on_request_alone():
    assert World().ask(COUNT, ROW).event_us is None


@given(view=views(), events=event_lists(), moment=MOMENTS)
def test_time_of_a_value_is_in_its_window_and_absent_with_it(view, events, moment):
    world = World(a_catalogue(view))
    world.fold(*events)
    known = {event.at for event in events if event.known <= moment and event.zone == "a"}
    for name, (feature, _) in features_by_name(view).items():
        rows = world.ask([f"{view.name}:{name}"], ROW, [moment], include_times=True)
        assert rows.event_us[0, 0] in {-1, *known}
        if isinstance(feature, WindowFeature) and feature.default is None:
            nothing = rows.values[0, 0] == 0 if feature.aggregate in ("count", "distinct") else None
            absent = bool(np.isnan(rows.values[0, 0]) or nothing)
            assert rows.event_us[0, 0] == -1 or not absent or feature.aggregate == "std"


@pytest.fixture
def world():
    made = World()
    made.fold(Event("e", START, START))
    return made


def watch(world, *, ends, missing=(), topic_id=lambda _: "first", made_again=None):
    def asked(stream):
        if stream in missing:
            raise Unavailable("TOPIC_MISSING", topic=stream)
        if ends is None:
            raise Unavailable("BROKER_UNAVAILABLE", bootstrap="x")
        return ends

    return EndsWatch(
        catalogue=lambda: world.catalogue,
        ends=asked,
        topic_id=topic_id,
        held_of=world.store.topic_id,
        made_again=made_again,
        known=world.known,
        clock=world.clock,
    )


def known_until(world):
    return world.ask(COUNT, ROW).known_until_us


def test_nothing_is_known_before_kafka_was_asked(world):
    assert 0 == known_until(world)


def test_idle_stream_is_known_until_it_was_asked_last(world):
    for _ in range(2):
        world.clock.advance(HOUR)
        watch(world, ends={0: 1, 1: 0}).look()

        assert world.clock.now_us() == known_until(world)


def test_stream_whose_topic_is_missing_keeps_no_other_from_being_known():
    count = {"count_1h": {"aggregate": "count", "window": "1h"}}
    air = a_view(count, name="air", stream="air")
    world = World(a_catalogue(*VIEWS, REQUEST_VIEW, air))
    world.fold(Event("e", START, START))
    world.clock.advance(HOUR)
    with pytest.raises(Unavailable, match=r"TOPIC_MISSING.*air"):
        watch(world, ends={0: 1}, missing={"air"}).look()

    assert world.clock.now_us() == known_until(world)


def test_topic_that_is_made_again_is_told_until_its_records_are_placed(world):
    told = []
    watched = watch(
        world,
        ends={0: 1},
        topic_id=lambda stream: world.topic_ids.get(stream, "first"),
        made_again=lambda: told.append("again"),
    )
    watched.look()
    assert not told

    known_us = known_until(world)
    world.clock.advance(HOUR)
    world.topic_ids["rides"] = "second"
    watched.look()
    assert ["again"] == told
    assert known_us == known_until(world)
    world.place()
    watched.look()
    assert ["again"] == told


def test_what_lies_behind_the_fold_is_not_known(world):
    watch(world, ends={0: 1}).look()
    before_us = world.clock.now_us()
    world.clock.advance(SECOND)
    watch(world, ends={0: 2}).look()
    assert before_us == known_until(world)

    world.fold(Event("f", START, START))
    assert world.clock.now_us() == known_until(world)


def test_clock_that_is_put_back_takes_back_what_was_known_of_later(world):
    watch(world, ends={0: 1}).look()
    begun_us = world.clock.now_us()
    world.clock.advance(HOUR)
    watch(world, ends={0: 1}).look()
    assert begun_us + HOUR == known_until(world)

    world.clock.advance(SECOND - HOUR)
    watch(world, ends={0: 2}).look()
    assert begun_us == known_until(world)
    with pytest.raises(Conflict, match=r"FEATURES_STALE.*staleness_max_ms=500"):
        world.ask(COUNT, ROW, staleness_max_ms=500)


def test_nothing_more_is_known_while_kafka_does_not_answer(world):
    watch(world, ends={0: 1}).look()
    before_us = world.clock.now_us()
    world.clock.advance(HOUR)
    with pytest.raises(Unavailable):
        watch(world, ends=None).look()

    assert before_us == known_until(world)


def test_what_was_known_stays_known_when_its_asking_is_forgotten(world):
    watch(world, ends={0: 1}).look()
    before_us = known_until(world)
    for _ in range(ASKINGS_MAX):
        world.clock.advance(SECOND)
        watch(world, ends={0: 2}).look()

    assert 0 < before_us == known_until(world)


@pytest.mark.parametrize(
    "place", [LogPlace(9, "second"), LogPlace(0, "first"), LogPlace(9)], ids=str
)
def test_place_before_the_end_or_in_another_topic_is_not_known(world, place):
    layout, known = world.catalogue.layout_by_view["zone"], KnownUntil()
    known.note("rides", START, "first", {0: 1})

    assert START == known.of([(layout, {0: LogPlace(1, "first")})])
    assert 0 == known.of([(layout, {0: place})])


def test_partition_that_goes_to_who_has_less_of_it_is_not_known(world):
    layout, known = world.catalogue.layout_by_view["zone"], KnownUntil()
    known.note("rides", START, "first", {0: 5})
    assert START == known.of([(layout, {0: LogPlace(5, "first")})])
    for second in range(ASKINGS_MAX):
        known.note("rides", START + second, "first", {0: 9})

    assert START == known.of([(layout, {0: LogPlace(6, "first")})])
    assert 0 == known.of([(layout, {0: LogPlace(4, "first")})])


def test_partition_that_moved_amid_a_read_is_known_as_who_was_behind_had_it():
    ours, theirs = {0: LogPlace(1, "first"), 1: LogPlace(4, "first")}, {0: LogPlace(3, "first")}

    assert ours == lowest(ours, theirs)
    assert {0: LogPlace(1, "first")} == lowest(theirs, {0: LogPlace(1, "first")})


def test_partition_that_was_not_read_yet_is_waited_for(world):
    watch(world, ends={0: 1, 1: 5}).look()

    assert 0 == known_until(world)


def test_older_than_the_bound_is_refused(world):
    watch(world, ends={0: 1}).look()
    world.clock.advance(2 * SECOND)

    assert 1.0 == world.ask(COUNT, ROW, staleness_max_ms=2_000).values[0, 0]
    with pytest.raises(Conflict, match="FEATURES_STALE"):
        world.ask(COUNT, ROW, staleness_max_ms=1_999)


def test_negative_bound_is_refused(world):
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        world.ask(COUNT, ROW, staleness_max_ms=-1)


@given(data=st.data())
def test_reads_together_are_told_what_each_asked_for(data):
    world = World()
    world.fold(*(Event(f"e{n}", START + n, START + n, zone="ab"[n % 2]) for n in range(6)))
    none = np.array([], dtype=np.int64)
    query = GetOnlineFeatures(tuple(COUNT), {"zone": ["a"]}, none)
    drawn = data.draw(
        st.lists(
            st.tuples(
                st.lists(st.sampled_from(["a", "b", "", "z"]), min_size=0, max_size=4),
                st.booleans(),
                st.sampled_from([0, 5]),
            ),
            min_size=1,
            max_size=8,
        )
    )
    queries = [
        replace(query, columns={"zone": zones}, include_times=t, staleness_max_ms=bound)
        for zones, t, bound in drawn
    ]
    alone = []
    for each in queries:
        try:
            alone.append(get_online_features(each, world.online()))
        except (Conflict, Invalid) as err:
            alone.append(err)
    for expected, got in zip(alone, answer_together(queries, world.online()), strict=True):
        if isinstance(expected, Exception):
            assert str(expected) == str(got)
        else:
            assert expected.values.tolist() == got.values.tolist()
            assert (expected.event_us is None) == (got.event_us is None)
            assert expected.event_us is None or (expected.event_us == got.event_us).all()


class Away:
    """A store whose observations another worker has, who does not answer."""

    def __init__(self, store):
        self._store, self.asked = store, 0

    def __getattr__(self, name):
        return getattr(self._store, name)

    def reading(self):
        return nullcontext(self)

    def runs_of(self, layout, wanted):
        self.asked += 1
        raise Unavailable("SERVICE_UNAVAILABLE")


def test_worker_that_is_away_is_waited_for_once_by_reads_together():
    world = World()
    world.fold(Event("e", START, START))
    query = GetOnlineFeatures(tuple(COUNT), {"zone": ["a"]}, np.array([START]))
    away = Away(world.store)

    replies = answer_together([query] * 64, replace(world.online(), store=away))

    assert 64 == len(replies)
    assert {"SERVICE_UNAVAILABLE"} == {each.reason for each in replies}
    assert 1 == away.asked

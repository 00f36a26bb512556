# SPDX-License-Identifier: Apache-2.0
"""The online read against the oracle, and what it refuses."""

import numpy as np
import pytest
from feature_oracle import Oracle
from feature_world import (
    DAY,
    HOUR,
    KINDS,
    MOMENTS,
    REQUEST_FEATURES,
    SECOND,
    START,
    WINDOW_FEATURES,
    ZONES,
    Event,
    World,
    a_catalogue,
    a_request_view,
    a_view,
    bits,
    event_lists,
)
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import Busy, Invalid, NotFound
from headrace_feature import handlers
from headrace_feature.domain import windows
from headrace_feature.domain.online_query import ROWS_MAX

ROWS = st.lists(st.tuples(ZONES, KINDS, MOMENTS), min_size=1, max_size=12)


@given(events=event_lists(), rows=ROWS)
def test_every_row_equals_the_oracle(events, rows):
    world = World()
    world.fold(*events)
    expected = [Oracle().answer(events, WINDOW_FEATURES, *row) for row in rows]

    assert expected == bits(world.read(rows))


def test_feature_that_is_named_twice_is_answered_in_both_places():
    world = World()
    world.fold(Event("e", START, START))
    row = [("a", 1, START + SECOND)]
    once = bits(world.read(row, WINDOW_FEATURES))
    twice = bits(world.read(row, [*WINDOW_FEATURES, *WINDOW_FEATURES]))

    assert [each + each for each in once] == twice


@given(events=event_lists(), rows=ROWS)
def test_rows_taken_in_small_pieces_give_the_same(events, rows):
    world = World()
    world.fold(*events)
    whole = bits(world.read(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "PAIRS_MAX", 3)
        patch.setattr("headrace_feature.handlers.LINE_US_MAX", 3 * DAY)
        assert whole == bits(world.read(rows))


@given(data=st.data(), events=event_lists(), cut=MOMENTS)
def test_no_answer_depends_on_what_became_known_later(data, events, cut):
    """Issue 3: shifting or changing every later event leaves all earlier answers, bit for bit."""
    changed = []
    for event in events:
        if event.known <= cut:
            changed.append(event)
        elif data.draw(st.booleans()):
            shift = data.draw(st.integers(0, 3 * HOUR))
            changed.append(
                Event(event.id, event.at + shift, event.known + shift, "b", 2, 999, -1e300)
            )
    rows = [
        (zone, kind, cut - back * HOUR // 3)
        for zone in "ab"
        for kind in (1, 2)
        for back in range(6)
    ]
    before, after = World(), World()
    before.fold(*events)
    after.fold(*changed)

    assert bits(before.read(rows)) == bits(after.read(rows))


def test_sum_is_exact_in_any_order():
    world = World()
    for number, fare in enumerate([1e16, 1.0, -1e16, 0.1, -0.1]):
        world.fold(Event(f"e{number}", START + number, START, fare=fare))

    feature = ["zone:sum_fare_1h", "zone:mean_fare_1h"]
    assert [[1.0, float(np.float32(0.2))]] == world.read([("a", 1, START + 9)], feature).tolist()


def test_last_of_one_moment_is_that_of_the_greatest_id():
    world = World()
    world.fold(*(Event(name, START, START, riders=n) for n, name in enumerate("bca")))

    assert [[1.0]] == world.read([("a", 1, START)], ["zone:last_riders_1h"]).tolist()


def test_window_is_open_at_its_begin_and_closed_at_its_end():
    world = World()
    world.fold(Event("e", START, START))
    feature = ["zone:count_1h"]

    answers = [world.read([("a", 1, START + d)], feature)[0, 0] for d in (-1, 0, HOUR - 1, HOUR)]
    assert [0, 1, 1, 0] == answers


def test_tumbling_day_is_the_day_before_by_the_clock_of_its_zone():
    # 2013-03-10 in New York had 23 hours: it ended 23 hours after its midnight at 05:00 UTC.
    midnight = 1_362_891_600 * SECOND
    feature = {
        "aggregate": "count",
        "window": "1d",
        "tumbling": True,
        "timezone": "America/New_York",
    }
    view = a_view({"yesterday": feature})
    world = World(a_catalogue(view))
    world.fold(Event("e", midnight, midnight), Event("next", midnight + 23 * HOUR, midnight))

    moments = (0, 23 * HOUR - 1, 23 * HOUR, 47 * HOUR - 1, 47 * HOUR)
    rows = [("a", 1, midnight + moment) for moment in moments]
    assert [0, 0, 1, 1, 1] == world.read(rows, ["zone:yesterday"])[:, 0].tolist()


def test_entity_that_was_not_heard_of_within_the_ttl_has_no_features():
    count = {"aggregate": "count", "window": "3h"}
    view = a_view({"n": count, "m": {**count, "default": -1}}, ttl="1h")
    world = World(a_catalogue(view))
    world.fold(Event("e", START, START))

    rows = [("a", 1, START + HOUR - 1), ("a", 1, START + HOUR), ("never", 1, START)]
    answers = world.read(rows, ["zone:n", "zone:m"])
    assert [1.0, 1.0] == answers[0].tolist()
    assert np.isnan(answers[1:, 0]).all()
    assert [-1.0, -1.0] == answers[1:, 1].tolist()


def test_ttl_that_is_longer_than_any_window_forgets_nobody():
    count = {"aggregate": "count", "window": "lifetime"}
    world = World(a_catalogue(a_view({"n": count}, ttl="1000000d")))
    world.fold(Event("e", START, START))

    answers = world.read([("a", 1, START + HOUR), ("never", 1, START)], ["zone:n"])
    assert 1.0 == answers[0, 0]
    assert np.isnan(answers[1, 0])


def test_request_features_are_local_to_their_zone():
    world = World()
    # 2013-03-10: New York's clocks went from 02:00 to 03:00 at 07:00 UTC. It was a Sunday.
    moments = np.array([1_362_898_799, 1_362_898_800], dtype=np.int64) * 1_000_000
    answers = world.read(
        [("b", 1, START), ("z", 1, START)],
        REQUEST_FEATURES,
        due=moments,
        distance=np.array([2.5, np.nan]),
    )

    assert [1.0, 7.0, 2.5, 2.0, 2.0] == answers[0].tolist()
    assert [3.0, 7.0] == answers[1, :2].tolist()
    assert np.isnan(answers[1, 2:4]).all()
    assert 0.0 == answers[1, 4]


def test_category_that_is_not_listed_is_0_as_an_absent_one_is():
    world = World()
    asked = [("b", 1, START), ("elsewhere", 1, START), ("", 1, START)]

    assert [2, 0, 0] == world.read(asked, ["ask:zone"])[:, 0].tolist()


def test_expression_computes_with_the_request_and_with_features_of_views():
    count = {"aggregate": "count", "window": "1h"}
    mean = {"aggregate": "mean", "column": "riders", "window": "1h"}
    ask = {
        "share": {"expression": 'distance / "zone:n"'},
        "busy": {"expression": '"zone:n" > 1 AND "zone:mean" IS NOT NULL'},
        "gap": {"expression": "LN(distance)", "default": -1},
        "one": {"expression": "1"},
    }
    world = World(a_catalogue(a_view({"n": count, "mean": mean}), a_request_view(ask)))
    world.fold(Event("e", START, START), Event("f", START, START))

    answers = world.read(
        [("a", 1, START), ("never", 1, START)],
        [f"ask:{name}" for name in ask],
        distance=np.array([3.0, np.nan]),
    )
    assert [1.5, 1.0, float(np.float32(np.log(3.0))), 1.0] == answers[0].tolist()
    assert np.isnan(answers[1, 0])
    assert [0.0, -1.0, 1.0] == answers[1, 1:].tolist()


def test_no_moment_given_means_now():
    world = World()
    world.fold(Event("e", START - 1, START - 1))
    query_rows = world.read([], ["zone:count_1h"], zone=["a"], kind=["1"])

    assert [[1.0]] == query_rows.tolist()


def test_number_and_text_name_the_same_entity():
    world = World()
    world.fold(Event("e", START, START, kind=7))
    feature = ["zone-kind:count_90m"]

    for kind in (np.array([7]), np.array([7.0]), ["7"]):
        assert 1.0 == world.read([("a", None, START)], feature, kind=kind)[0, 0]
    for nothing in (np.array([np.nan]), [""]):
        assert 0.0 == world.read([("a", None, START)], feature, kind=nothing)[0, 0]


@pytest.mark.parametrize(
    ("columns", "moments", "problem"),
    [
        ({"zone": ["a"]}, [START, START], "one for each row, or none"),
        ({"zone": ["a", "b"], "kind": ["1"]}, [], "must have one length"),
        ({"kind": ["1"]}, [START], "zone"),
        ({}, [], "must have one length"),
        ({"zone": ["a"]}, [-1], "must not be negative: microseconds since 1970"),
    ],
)
def test_malformed_query_is_refused(columns, moments, problem):
    with pytest.raises(Invalid, match=f"BAD_REQUEST.*{problem}"):
        World().read_columns(["zone:count_1h"], columns, moments)


def test_unknown_feature_is_refused():
    with pytest.raises(NotFound, match="FEATURE_UNKNOWN"):
        World().read([("a", 1, START)], ["zone:nothing"])


def test_too_many_rows_are_refused():
    with pytest.raises(Busy, match="BATCH_TOO_LARGE"):
        World().read([("a", 1, START)] * (ROWS_MAX + 1), ["zone:count_1h"])


def test_read_behind_what_is_kept_is_refused():
    world = World(keep=10 * DAY)
    world.fold(Event("new", START + 40 * DAY, START + 40 * DAY))

    assert 0.0 == world.read([("a", 1, START + 30 * DAY)], ["zone:count_1h"])[0, 0]
    with pytest.raises(Invalid, match="history begins"):
        world.read([("a", 1, START + 29 * DAY)], ["zone:count_1h"])


def test_lifetime_sees_what_is_older_than_all_that_other_windows_keep():
    world = World(a_catalogue(a_view({"n": {"aggregate": "count", "window": "lifetime"}})), keep=0)
    world.fold(Event("first", START, START))
    world.fold(Event("last", START + 5_000 * DAY, START + 5_000 * DAY))

    rows = [("a", 1, START - 1), ("a", 1, START), ("a", 1, START + 5_000 * DAY)]
    assert [0.0, 1.0, 2.0] == world.read(rows, ["zone:n"])[:, 0].tolist()


def test_feature_that_is_named_again_is_read_once_and_answered_in_every_place(monkeypatch):
    world, planned = World(), []
    world.fold(Event("one", START, START))
    plan_of = handlers.plan_of

    def noted(catalogue, names):
        planned.append(names)
        return plan_of(catalogue, names)

    monkeypatch.setattr(handlers, "plan_of", noted)
    count, total = "zone:count_1h", "zone:sum_fare_1h"
    columns = {"zone": ["a"], "kind": ["1"]}

    once = world.ask([count, total], columns, [START], include_times=True)
    again = world.ask([total, count, total], columns, [START], include_times=True)

    assert [(count, total), (total, count)] == planned
    assert bits(once.values[:, [1, 0, 1]]) == bits(again.values)
    assert once.event_us[:, [1, 0, 1]].tolist() == again.event_us.tolist()


def test_time_of_what_is_made_of_two_features_is_the_later_one_that_there_is():
    window = {"window": "1h"}
    features = {
        "fares": {"aggregate": "sum", "column": "fare", **window},
        "riders": {"aggregate": "sum", "column": "riders", **window},
        "share": {"ratio": ["fares", "riders"]},
        "turned": {"ratio": ["riders", "fares"]},
    }
    either = {"either": {"expression": 'COALESCE("zone:fares", "zone:riders")'}}
    world = World(a_catalogue(a_view(features), a_request_view(either)))
    world.fold(Event("fare", START - 2, START - 2, riders=None))
    names, one, none = ["zone:share", "zone:turned", "ask:either"], {"zone": ["a"]}, {"zone": ["b"]}

    of_one = world.ask(names, one, [START], include_times=True)
    assert [[START - 2] * 3] == of_one.event_us.tolist()
    world.fold(Event("riders", START - 1, START - 1, fare=None))
    of_two = world.ask(names, one, [START], include_times=True)
    assert [[START - 1] * 3] == of_two.event_us.tolist()
    assert [[-1] * 3] == world.ask(names, none, [START], include_times=True).event_us.tolist()

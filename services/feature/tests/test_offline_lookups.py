# SPDX-License-Identifier: Apache-2.0
"""Lookups from the archive: P5 against the online read, however both streams came."""

from dataclasses import replace

import numpy as np
import pytest
from feature_definitions import views
from feature_world import (
    DAY,
    HOUR,
    MINUTE,
    MOMENTS,
    RECIPE,
    START,
    Air,
    Event,
    World,
    a_bench,
    a_catalogue,
    a_view,
    air_lists,
    archived,
    bits,
    checked_skew,
    event_lists,
    twin_lists,
)
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import Busy
from headrace.feature_view import feature_names
from headrace_feature.adapters.memory_archive import MemoryArchive
from headrace_feature.domain import point_in_time
from headrace_feature.domain.online_query import GetOnlineFeatures
from headrace_feature.domain.served_sample import Served

ROWS = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.sampled_from([1, 2]), MOMENTS), min_size=1, max_size=6
)
AFTER = START + 30 * DAY
ASKED = {"zone": "a", "kind": 1, "night": True}
LOOKUP = {"stream": "air", "key": {"zone": "zone"}, "column": "temp", "max_age": "1h"}
VIEW = a_view(
    {"mean": {"aggregate": "mean", "column": "temp", "window": "1h"}}, lookups={"temp": LOOKUP}
)


def with_repeats(draw, events):
    """Shuffled, and some again, known later."""
    repeats = draw(st.lists(st.sampled_from(events), max_size=4)) if events else []
    later = [replace(event, known=event.known + HOUR) for event in repeats]
    return draw(st.permutations([*events, *later]))


def folded(draw, view, rides, airs):
    """A world that both streams came to in some order, in pieces."""
    world = World(a_catalogue(view))
    pieces = [piece for piece in (rides[::2], airs[::2], rides[1::2], airs[1::2]) if piece]
    for piece in draw(st.permutations(pieces)):
        world.fold(*piece)
    return world


@given(data=st.data(), view=views(looking=True), events=event_lists(), airs=air_lists(), rows=ROWS)
def test_historical_features_with_lookups_equal_the_online_read(data, view, events, airs, rows):
    rides, airs = with_repeats(data.draw, events), with_repeats(data.draw, airs)
    world, names = folded(data.draw, view, rides, airs), feature_names(view)
    prompt = data.draw(st.sampled_from([0.0, 0.5, 0.99]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(point_in_time, "PROMPT_SHARE", prompt)
        made = world.historical(rides, rows, names, airs=airs)

    assert bits(world.read(rows, names)) == bits(made)


@given(
    data=st.data(),
    view=views() | views(looking=True),
    events=event_lists(),
    airs=air_lists(),
    rows=ROWS,
)
def test_one_of_repeats_that_were_known_at_one_time_counts_in_every_way(
    data, view, events, airs, rows
):
    twins, names = data.draw(twin_lists(events)), feature_names(view)
    air_twins = [replace(air, temp=5.0) for air in airs]
    found = []
    for parts in ((events, twins), (twins, events)):
        world = World(a_catalogue(view))
        for number, part in enumerate(parts):
            world.fold(*part, partition=number)
        world.fold(*data.draw(st.permutations([*airs, *air_twins])))
        found.append(bits(world.read(rows, names)))
    made = [
        bits(
            World(a_catalogue(view)).historical(
                data.draw(st.permutations([*events, *twins])),
                rows,
                names,
                airs=data.draw(st.permutations([*airs, *air_twins])),
            )
        )
        for _ in range(2)
    ]

    assert [found[0]] * 3 == [found[1], *made]


@given(
    data=st.data(),
    view=views(looking=True),
    events=event_lists(events_max=40),
    airs=air_lists(airs_max=6),
    rows=ROWS,
)
def test_shares_with_lookups_give_the_bits_of_the_whole(data, view, events, airs, rows):
    names, held_max = feature_names(view), 6 * (2 + len(view.lookups))
    whole = World(a_catalogue(view)).historical(events, rows, names, airs=airs)
    shares = World(a_catalogue(view)).historical(
        events, rows, names, airs=airs, bench={"observations_max": held_max}
    )

    assert bits(whole) == bits(shares)


@given(view=views(looking=True), events=event_lists(), airs=air_lists(), rows=ROWS, cut=MOMENTS)
def test_nothing_that_either_stream_told_after_the_cut_counts(view, events, airs, rows, cut):
    world, names = World(a_catalogue(view)), feature_names(view)
    known = [[each for each in some if each.known <= cut] for some in (events, airs)]
    after = Event("after", cut, cut + 1), Air("after", cut, cut + 1)

    assert bits(world.historical(known[0], rows, names, airs=known[1])) == bits(
        world.historical(
            [*events, after[0]], rows, names, airs=[*airs, after[1]], known_as_of_us=cut
        )
    )


@given(data=st.data(), view=views(looking=True), events=event_lists(), airs=air_lists())
def test_training_set_with_lookups_equals_the_online_read(data, view, events, airs):
    names = feature_names(view)
    recipe = RECIPE.model_copy(update={"features": tuple(names)})
    world = folded(data.draw, view, events, airs)
    world.catalogue = world.catalogue.with_definition(recipe)
    dues = data.draw(st.lists(MOMENTS, min_size=1, max_size=6))
    asks = [
        archived(f"a{n}", due, due - HOUR, {"ask_id": f"a{n}", **ASKED, "due": due})
        for n, due in enumerate(dues)
    ]
    after = [archived("after-all", AFTER + 1, AFTER + 1, {})]
    rides = [event.row() for event in events] + after
    made = world.training_set(
        rides, asks + after, after, AFTER, airs=[air.row() for air in airs] + after
    )

    rows = [("a", 1, as_of) for as_of in made.as_of_us.tolist()]
    assert len(rows) == len(dues)
    assert bits(world.read(rows, names)) == bits(made.values)


def test_late_record_of_the_other_stream_counts_from_when_it_was_known():
    rides = [Event("ride", START, START)]
    airs = [
        Air("early", START - MINUTE, START - MINUTE, temp=1.0),
        Air("late", START - 1, START + MINUTE, temp=2.0),
    ]
    rows = [("a", 1, START + after) for after in (0, MINUTE - 1, MINUTE)]
    made = World(a_catalogue(VIEW)).historical(rides, rows, ["zone:mean"], airs=airs)

    assert [1.0, 1.0, 2.0] == made[:, 0].tolist()


def test_share_that_can_look_up_more_than_memory_may_hold_is_refused():
    rides = [Event(f"ride-{n}", START + n, START + n) for n in range(4)]
    airs = [Air(f"air-{n}", START - n, START) for n in range(5)]
    with pytest.raises(Busy, match="BATCH_TOO_LARGE"):
        World(a_catalogue(VIEW)).historical(
            rides, [("a", 1, START)], ["zone:mean"], airs=airs, bench={"observations_max": 8}
        )


def test_served_lookups_are_checked_against_both_streams():
    world, after = World(a_catalogue(VIEW)), START + HOUR
    rides, airs = [Event("ride", START, START)], [Air("air", START, START, temp=2.0)]
    world.fold(*rides)
    world.fold(*airs)
    query = GetOnlineFeatures(("zone:mean",), {"zone": ["a"]}, np.array([START]))
    answer = world.read_columns(query.features, query.columns, query.as_of_us)[0]
    rides, airs = [*rides, Event("after", after, after)], [*airs, Air("after", after, after)]
    with a_bench() as bench:
        archive = MemoryArchive(
            {"rides": [each.row() for each in rides], "air": [each.row() for each in airs]}
        )
        sample = [Served(query, answer), Served(query, answer + 1)]
        skew = checked_skew(sample, world, archive, bench)

    assert (2, [3.0]) == (skew.checked, [each.served for each in skew.mismatches])

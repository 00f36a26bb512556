# SPDX-License-Identifier: Apache-2.0
"""P4 and P5 for whatever a view can say: one answer by the fold, the oracle and the archive."""

import random
from dataclasses import replace

import pytest
from feature_definitions import views
from feature_oracle import Oracle
from feature_world import (
    DAY,
    HOUR,
    MOMENTS,
    RECIPE,
    START,
    Event,
    World,
    a_catalogue,
    a_view,
    archived,
    bits,
    event_lists,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.feature_view import StreamView, feature_names
from headrace_feature.domain import long_windows, tiles

AS_OF = st.one_of(MOMENTS, st.integers(0, 3 * DAY).map(lambda us: START + us))
ROWS = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.sampled_from([1, 2]), AS_OF), min_size=1, max_size=6
)
ASKED = {"zone": "a", "kind": 1, "night": True}


@given(data=st.data(), view=views(), events=event_lists(), rows=ROWS)
def test_answers_equal_the_oracle_however_the_events_come(data, view, events, rows):
    repeats = data.draw(st.lists(st.sampled_from(events), max_size=5)) if events else []
    later = [replace(event, known=event.known + HOUR) for event in repeats]
    shuffled = data.draw(st.permutations([*events, *later]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(shuffled)), max_size=5)))
    world = World(a_catalogue(view))
    for number, (first, last) in enumerate(zip([0, *cuts], [*cuts, len(shuffled)], strict=True)):
        world.fold(*shuffled[first:last], partition=number % 2)
    names = feature_names(view)

    expected = [Oracle(view).answer(events, names, *row) for row in rows]
    assert expected == bits(world.read(rows, names))


@given(data=st.data(), view=views(), events=event_lists(events_max=60), rows=ROWS)
def test_long_windows_give_the_bits_of_short_ones(data, view, events, rows):
    world = World(a_catalogue(view))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=3)))
    for number, (first, last) in enumerate(zip([0, *cuts], [*cuts, len(events)], strict=True)):
        world.fold(*events[first:last], partition=number % 2)
    if events and data.draw(st.booleans()):
        world.fold(*data.draw(st.lists(st.sampled_from(events), max_size=5)), partition=1)
    names = feature_names(view)
    short = bits(world.read(rows, names))
    with pytest.MonkeyPatch.context() as patch:
        size = data.draw(st.sampled_from([1, 2, 5]))
        patch.setattr(tiles, "TILE_ROWS", size)
        patch.setattr(long_windows, "TILED_ROWS_MIN", size)
        patch.setattr(long_windows, "ROWS_MIN", 1)
        assert short == bits(world.read(rows, names))


@given(view=views(), events=event_lists(), dues=st.lists(MOMENTS, min_size=1, max_size=6))
def test_training_set_of_any_view_equals_the_online_read(view, events, dues):
    names = feature_names(view)
    recipe = RECIPE.model_copy(update={"features": tuple(names)})
    world = World(a_catalogue(view).with_definition(recipe))
    world.fold(*events)
    asks = [
        archived(f"a{n}", due, due - HOUR, {"ask_id": f"a{n}", **ASKED, "due": due})
        for n, due in enumerate(dues)
    ]

    rides = [event.row() for event in events]
    until = START + 30 * DAY
    after = [archived("after-all", until + 1, until + 1, {})]
    made = world.training_set(rides + after, asks + after, after, until)
    rows = [("a", 1, as_of) for as_of in made.as_of_us.tolist()]
    assert len(rows) == len(dues)
    assert bits(world.read(rows, names)) == bits(made.values)


def a_long_view(*aggregates: str) -> StreamView:
    return a_view(
        {
            f"{aggregate}_{column}": {"aggregate": aggregate, "column": column, "window": "3h"}
            for aggregate in aggregates
            for column in ("riders", "fare")
        }
        | {"count": {"aggregate": "count", "window": "3h"}}
    )


def many_events(seed: int) -> list[Event]:
    """Of one entity, in a few hours, some late."""
    chance = random.Random(seed)
    fares = [0.1, 0.2, 1e16, -1e16, 5e-324, None] if seed % 2 else [0.1, 12.5, -3.25, None]
    events = []
    for number in range(60):
        at = START + chance.randrange(4 * HOUR)
        known = at + chance.choice([0, 0, 0, HOUR])
        riders = chance.choice([chance.randrange(-50, 50), 2**63 - 1, None])
        events.append(Event(f"e{number}", at, known, riders=riders, fare=chance.choice(fares)))
    return events


@pytest.mark.parametrize("aggregates", [("sum", "mean", "std"), ("min", "max"), ("first", "last")])
@given(seed=st.integers(0, 2**32), size=st.sampled_from([1, 2, 5]), cut=st.integers(0, 60))
@settings(max_examples=40)
def test_tiles_count_each_event_once_and_none_that_was_not_known(aggregates, seed, size, cut):
    """Several runs, of which none is merged, hold some events twice."""
    view, events = a_long_view(*aggregates), many_events(seed)
    world, names = World(a_catalogue(view)), feature_names(view)
    world.fold(*events[:cut])
    world.fold(*events[cut:], *events[: cut // 4], partition=1)
    rows = [("a", 1, START + half * HOUR // 2) for half in range(12)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE_ROWS", size)
        patch.setattr(long_windows, "TILED_ROWS_MIN", size)
        patch.setattr(long_windows, "is_long", lambda *_: True)
        patch.setattr(long_windows, "ROWS_MIN", 1)
        expected = [Oracle(view).answer(events, names, *row) for row in rows]
        assert expected == bits(world.read(rows, names))

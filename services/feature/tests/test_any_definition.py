# SPDX-License-Identifier: Apache-2.0
"""P4 and P5 for whatever a view can say: one answer by the fold, the oracle and the archive."""

from dataclasses import replace

from feature_definitions import views
from feature_oracle import Oracle
from feature_world import (
    DAY,
    HOUR,
    MOMENTS,
    RECIPE,
    START,
    World,
    a_catalogue,
    archived,
    bits,
    event_lists,
)
from hypothesis import given
from hypothesis import strategies as st

from headrace.feature_view import feature_names

AS_OF = st.one_of(MOMENTS, st.integers(0, 3 * DAY).map(lambda us: START + us))
ROWS = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.sampled_from([1, 2]), AS_OF), min_size=1, max_size=6
)


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


@given(view=views(), events=event_lists(), dues=st.lists(MOMENTS, min_size=1, max_size=6))
def test_training_set_of_any_view_equals_the_online_read(view, events, dues):
    names = feature_names(view)
    recipe = RECIPE.model_copy(update={"features": tuple(names)})
    world = World(a_catalogue(view).with_definition(recipe))
    world.fold(*events)
    asks = [
        archived(f"a{n}", due, due - HOUR, {"ask_id": f"a{n}", "zone": "a", "kind": 1, "due": due})
        for n, due in enumerate(dues)
    ]

    rides = [event.row() for event in events]
    until = START + 30 * DAY
    after = [archived("after-all", until + 1, until + 1, {})]
    made = world.training_set(rides + after, asks + after, after, until)
    rows = [("a", 1, as_of) for as_of in made.as_of_us.tolist()]
    assert len(rows) == len(dues)
    assert bits(world.read(rows, names)) == bits(made.values)

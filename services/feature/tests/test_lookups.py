# SPDX-License-Identifier: Apache-2.0
"""A column of another stream, as of each event: P4 for two streams, and what a lookup means."""

from dataclasses import replace

import numpy as np
from feature_oracle import Oracle
from feature_world import (
    HOUR,
    LAGS,
    MINUTE,
    MOMENTS,
    START,
    Air,
    Event,
    World,
    a_catalogue,
    a_view,
    bits,
    event_lists,
)
from hypothesis import given
from hypothesis import strategies as st

from headrace.feature_view import StreamView, feature_names

AGGREGATES = ("sum", "mean", "std", "min", "max", "first", "last", "distinct")
LOOKUP = {"stream": "air", "key": {"zone": "zone"}, "column": "temp", "max_age": "1h"}
TEMPS = st.none() | st.sampled_from([0.0, 0.1, -7.25, 1e16])


def a_looking_view(column: str = "temp", **more: object) -> StreamView:
    """Features on the looked-up column, beside one on a column of the stream's own."""
    features = {f"{a}_t": {"aggregate": a, "column": column, "window": "3h"} for a in AGGREGATES}
    features["newest"] = {"aggregate": "last_n", "n": 2, "column": column, "window": "90m"}
    features["riders"] = {"aggregate": "sum", "column": "riders", "window": "3h"}
    return a_view(features, **more)


VIEW = a_looking_view(lookups={"temp": LOOKUP})
NAMES = feature_names(VIEW)
AIRS = st.lists(st.tuples(MOMENTS, LAGS, st.sampled_from(["a", "b"]), TEMPS), max_size=15)


def enriched(events, airs, as_of):
    """The events with the temperature that was known at the moment, in place of the fare."""
    known = sorted((a for a in airs if a.known <= as_of), key=lambda a: (a.at, a.id.encode()))
    for event in events:
        temps = [
            air.temp
            for air in known
            if air.zone == event.zone
            and air.temp is not None
            and event.at - HOUR < air.at <= event.at
        ]
        yield replace(event, fare=temps[-1] if temps else None)


@given(
    data=st.data(),
    events=event_lists(),
    drawn=AIRS,
    rows=st.lists(st.tuples(st.sampled_from("ab"), st.just(1), MOMENTS), min_size=1, max_size=6),
)
def test_lookups_equal_the_oracle_whichever_stream_comes_first(data, events, drawn, rows):
    airs = [Air(f"air-{n}", at, at + lag, *rest) for n, (at, lag, *rest) in enumerate(drawn)]
    batches = [batch for batch in (events[::2], airs[::2], events[1::2], airs[1::2]) if batch]
    world = World(a_catalogue(VIEW))
    for batch in data.draw(st.permutations(batches)):
        world.fold(*batch)

    oracle = Oracle(a_looking_view("fare"))
    expected = [oracle.answer(list(enriched(events, airs, row[-1])), NAMES, *row) for row in rows]
    assert expected == bits(world.read(rows, NAMES))


def test_late_record_of_the_other_stream_corrects_what_was_looked_up():
    world = World(a_catalogue(VIEW))
    world.fold(Event("e", START, START))
    world.fold(Air("early", START - MINUTE, START - MINUTE, temp=1.0))
    rows = [("a", 1, START + moment) for moment in (0, HOUR - 1, HOUR)]
    assert [1.0, 1.0, 1.0] == world.read(rows, ["zone:last_t"])[:, 0].tolist()

    world.fold(Air("late", START - 1, START + HOUR, temp=2.0))
    assert [1.0, 1.0, 2.0] == world.read(rows, ["zone:last_t"])[:, 0].tolist()


def test_value_older_than_its_max_age_is_absent():
    world = World(a_catalogue(VIEW))
    world.fold(Event("e", START, START), Event("next", START + 1, START + 1))
    world.fold(Air("air", START - HOUR + 1, START))

    answers = world.read([("a", 1, START), ("a", 1, START + 1)], ["zone:newest_1", "zone:newest_2"])
    assert 1.0 == answers[0, 0]
    assert 1.0 == answers[1, 0]  # of the event before: the newer one found nothing
    assert np.isnan(answers[:, 1]).all()

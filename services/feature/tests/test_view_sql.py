# SPDX-License-Identifier: Apache-2.0
"""P5 for the SQL of a view: DuckDB answers with the bits of the service and of the oracle."""

import math
from dataclasses import replace

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from archived_tables import STREAMS, airs, questions, rides
from feature_definitions import views
from feature_oracle import Oracle
from feature_world import (
    DAY,
    HOUR,
    LAGS,
    MOMENTS,
    START,
    Air,
    Event,
    World,
    a_catalogue,
    a_view,
    bits,
    event_lists,
    twin_lists,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import Invalid
from headrace.feature_view import StreamView, feature_names
from headrace.view_sql import feature_rows_sql

AS_OF = st.one_of(MOMENTS, st.integers(0, 3 * DAY).map(lambda us: START + us))
ROWS = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.sampled_from([1, 2]), AS_OF), min_size=1, max_size=6
)
TEMPS = st.none() | st.sampled_from([0.0, 0.1, -7.25, 1e16])
AIRS = st.lists(st.tuples(MOMENTS, LAGS, st.sampled_from(["a", "b"]), TEMPS), max_size=15)


def answered(view: StreamView, rows, known_as_of_us=None, **tables: pa.Table) -> list[list[bytes]]:
    """By DuckDB, in the order of `rows`: (zone, kind, as_of)."""
    sql = feature_rows_sql(view, STREAMS, "duckdb", known_as_of_us=known_as_of_us)
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("entity_rows", questions(rows))
        for name, table in tables.items():
            connection.register(name, table)
        found = connection.execute(sql).fetchall()
    width = len(view.entity) + 1
    by_question = {row[:width]: row[width:] for row in found}
    asked = questions(rows).select([*view.entity, "as_of_us"]).to_pylist()
    values = np.array([by_question[(*each.values(),)] for each in asked], dtype=np.float32)
    return bits(values)


@settings(max_examples=50)
@given(data=st.data(), view=views(), events=event_lists(), rows=ROWS)
def test_sql_of_any_view_gives_the_bits_of_the_oracle(data, view, events, rows):
    repeats = data.draw(st.lists(st.sampled_from(events), max_size=5)) if events else []
    later = [replace(event, known=event.known + HOUR) for event in repeats]
    shuffled = data.draw(st.permutations([*events, *later]))

    expected = [Oracle(view).answer(events, feature_names(view), *row) for row in rows]
    assert expected == answered(view, rows, records_rides=rides(shuffled))


SUMS = a_view(
    {
        f"{aggregate}_{column}": {"aggregate": aggregate, "column": column, "window": "lifetime"}
        for aggregate in ("sum", "mean", "std")
        for column in ("fare", "riders")
    }
    | {"spread_fare": {"ratio": ["std_fare", "mean_fare"]}}
)
FLOATS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-1074, 1023).map(lambda power: 2.0**power),
    st.sampled_from([1e308, -1e308, 5e-324, 0.1, 1e16, 1.0, -1.0, 2.0**52, 2.0**-53, -(2.0**-53)]),
)


@settings(max_examples=50)
@given(st.lists(st.tuples(FLOATS, st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=30))
def test_sums_in_sql_are_exact_whatever_the_numbers_cancel(values):
    events = [
        Event(f"e{number}", START, START, fare=fare, riders=riders)
        for number, (fare, riders) in enumerate(values)
    ]
    row = ("a", 1, START)

    expected = [Oracle(SUMS).answer(events, feature_names(SUMS), *row)]
    assert expected == answered(SUMS, [row], records_rides=rides(events))


@pytest.mark.parametrize("power", [-1020, -600, 0, 600, 1020])
def test_std_is_right_where_its_square_is_no_float(power):
    fares = np.ldexp([1.0, -1.0, -3.0], power).tolist()
    events = [Event(f"e{fare}", START, START, fare=fare) for fare in fares]
    world, row, names = World(a_catalogue(SUMS)), ("a", 1, START), ("zone:spread_fare",)
    world.fold(*events)

    expected = bits(np.array([[-2.0]]))
    assert expected == bits(world.read([row], names))
    assert expected == bits(world.historical(events, [row], names))
    assert expected[0] == answered(SUMS, [row], records_rides=rides(events))[0][-1:]


@settings(max_examples=25)
@given(events=event_lists(events_max=12), seen=AIRS, rows=ROWS)
def test_sql_looks_up_what_the_service_does(events, seen, rows):
    columns = {"temp": ("sum", "last", "distinct", "std"), "riders": ("sum",)}
    features = {
        f"{aggregate}_{column}": {"aggregate": aggregate, "column": column, "window": "3h"}
        for column, aggregates in columns.items()
        for aggregate in aggregates
    }
    lookup = {"stream": "air", "key": {"zone": "zone"}, "column": "temp", "max_age": "1h"}
    view = a_view(features, lookups={"temp": lookup})
    observed = [
        Air(f"air-{number}", at, at + lag, zone, temp)
        for number, (at, lag, zone, temp) in enumerate(seen)
    ]
    world = World(a_catalogue(view))
    world.fold(*events)
    world.fold(*observed) if observed else None

    expected = bits(world.read(rows, feature_names(view)))
    assert expected == answered(view, rows, records_rides=rides(events), records_air=airs(observed))


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    ("fares", "counted"),
    [((1.0, 4.0), 1.0), ((4.0, None), math.nan), ((-2.0, -1.0), -1.0), ((0.5, -3.0), -3.0)],
)
def test_event_in_two_partitions_counts_once_and_as_the_same_in_every_way(fares, counted, swapped):
    view = a_view({"last": {"aggregate": "last", "column": "fare", "window": "1h"}})
    told = [Event("e", START, START, fare=fare) for fare in fares][:: -1 if swapped else 1]
    world, row = World(a_catalogue(view)), ("a", 1, START)
    for number, event in enumerate(told):
        world.fold(event, partition=number)
    names = feature_names(view)

    expected = bits(np.array([[counted]]))
    assert expected == bits(world.read([row], names))
    assert expected == bits(world.historical(told, [row], names))
    assert expected == answered(view, [row], records_rides=rides(told))


@settings(max_examples=25)
@given(data=st.data(), events=event_lists(), rows=ROWS)
def test_sql_counts_the_one_of_repeats_that_the_service_does(data, events, rows):
    features = {
        f"{aggregate}_{column}": {"aggregate": aggregate, "column": column, "window": "3h"}
        for aggregate in ("sum", "last", "min")
        for column in ("fare", "riders")
    }
    view, twins = a_view(features), data.draw(twin_lists(events))
    world = World(a_catalogue(view))
    for number, part in enumerate((events, twins)):
        world.fold(*part, partition=number)
    told = data.draw(st.permutations([*events, *twins]))

    expected = bits(world.read(rows, feature_names(view)))
    assert expected == answered(view, rows, records_rides=rides(told))


def test_what_became_known_after_the_cut_does_not_count():
    view = a_view({"count": {"aggregate": "count", "window": "3h"}})
    events = [Event("early", START, START), Event("late", START, START + HOUR)]
    row = ("a", 1, START + 2 * HOUR)

    assert bits(np.array([[1.0]])) == answered(
        view, [row], known_as_of_us=START, records_rides=rides(events)
    )


def test_view_of_a_stream_that_is_not_there_is_refused():
    view = a_view({"count": {"aggregate": "count", "window": "3h"}}, stream="walks")

    with pytest.raises(Invalid, match="BAD_DEFINITION"):
        feature_rows_sql(view, STREAMS, "spark")

# SPDX-License-Identifier: Apache-2.0
"""P5 on Spark: the stream, the archive's kernel, DuckDB and Spark give the same bits.

Views and event logs are drawn by Hypothesis, then told to Spark in a few large tasks: the logs of a
view become one, each with entities of its own.
"""

import random
from dataclasses import replace

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from archived_tables import STREAMS, airs, questions, rides
from feature_definitions import views
from feature_world import (
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
)
from hypothesis import strategies as st
from tests.spark.drawn import NUMBER, drawn

from headrace.feature_view import StreamView, feature_names, features_by_name
from headrace.view_sql import feature_rows_sql

pytestmark = [pytest.mark.spark, pytest.mark.timeout(3_600)]

VIEWS, LOOKING_VIEWS, LOGS = 5, 2, 20
TEMPS = st.none() | st.sampled_from([0.0, 0.1, -7.25, 1e16])
ROWS = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.sampled_from([1, 2]), MOMENTS), min_size=3, max_size=6
)


def one_log(logs: list[tuple[list[Event], list]]) -> tuple[list[Event], list]:
    """The events and questions of many, each log about zones of its own."""
    events, rows = [], []
    for number, (told, asked) in enumerate(logs):
        events += [replace(e, zone=e.zone and f"{number}-{e.zone}") for e in told]
        rows += [(f"{number}-{zone}", kind, as_of) for zone, kind, as_of in asked]
    return events, rows


def as_they_come(events: list[Event], chance: random.Random) -> list[Event]:
    """Shuffled; some come twice, the second time known later."""
    repeats = chance.sample(events, k=len(events) // 5)
    told = [*events, *(replace(event, known=event.known + HOUR) for event in repeats)]
    chance.shuffle(told)
    return told


def by_stream(view: StreamView, told: list[Event], rows) -> list[list[bytes]]:
    world = World(a_catalogue(view))
    for number, first in enumerate(range(0, len(told), 97)):
        world.fold(*told[first : first + 97], partition=number % 2)
    return bits(world.read(rows, feature_names(view)))


def by_kernel(view: StreamView, told: list[Event], rows) -> list[list[bytes]]:
    return bits(World(a_catalogue(view)).historical(told, rows, feature_names(view)))


def by_duckdb(view: StreamView, rows, **tables: pa.Table) -> list[list[bytes]]:
    with duckdb.connect() as connection:
        for name, table in {"entity_rows": questions(rows), **tables}.items():
            connection.register(name, table)
        found = connection.sql(feature_rows_sql(view, STREAMS, "duckdb")).to_arrow_table()
    return in_order(view, found, rows)


def in_order(view: StreamView, found: pa.Table, rows) -> list[list[bytes]]:
    """A query answers each different question once; rows: (zone, kind, as_of)."""
    names = list(features_by_name(view))
    assert {pa.float32()} == {found.schema.field(name).type for name in names}
    keys = zip(*(found[name].to_pylist() for name in (*view.entity, "as_of_us")), strict=True)
    place = {key: number for number, key in enumerate(keys)}
    keys_asked = questions(rows).select([*view.entity, "as_of_us"]).to_pylist()
    asked = [place[tuple(key.values())] for key in keys_asked]
    columns = [np.array(found[name].to_pylist(), dtype=np.float32) for name in names]
    return bits(np.stack(columns, axis=1)[asked])


def test_stream_kernel_duckdb_and_spark_answer_any_view_with_the_same_bits(spark):
    chance = random.Random(NUMBER)
    logs = drawn(st.tuples(event_lists(), ROWS), VIEWS * LOGS)
    for view in drawn(views(features_min=6, features_max=9), VIEWS):
        events, rows = one_log([logs.pop() for _ in range(LOGS)])
        told = as_they_come(events, chance)
        found = spark.query(
            feature_rows_sql(view, STREAMS, "spark"),
            entity_rows=questions(rows),
            records_rides=rides(told),
        )

        expected = by_stream(view, told, rows)
        context = view.model_dump_json()
        assert expected == by_kernel(view, told, rows), context
        assert expected == by_duckdb(view, rows, records_rides=rides(told)), context
        assert expected == in_order(view, found, rows), context


def test_stream_kernel_duckdb_and_spark_look_up_the_same(spark):
    events, rows = one_log(drawn(st.tuples(event_lists(), ROWS), LOGS))
    named = sorted({event.zone for event in events if event.zone} | {"ada", "bob", "Bob"})
    seen = drawn(st.tuples(MOMENTS, LAGS, st.sampled_from(named), TEMPS), 300)
    observed = [Air(f"air-{n}", at, at + lag, *rest) for n, (at, lag, *rest) in enumerate(seen)]
    for view in drawn(views(looking=True, features_min=6, features_max=9), LOOKING_VIEWS):
        world = World(a_catalogue(view))
        world.fold(*events)
        world.fold(*observed)
        tables = {"records_rides": rides(events), "records_air": airs(observed)}
        sql = feature_rows_sql(view, STREAMS, "spark")
        found = spark.query(sql, entity_rows=questions(rows), **tables)

        names = feature_names(view)
        expected = bits(world.read(rows, names))
        context = view.model_dump_json()
        assert expected == bits(world.historical(events, rows, names, airs=observed)), context
        assert expected == by_duckdb(view, rows, **tables), context
        assert expected == in_order(view, found, rows), context


def test_spark_adds_without_rounding_whatever_the_numbers_cancel(spark):
    chance = random.Random(NUMBER)
    view = a_view(
        {
            f"{aggregate}_{column}": {"aggregate": aggregate, "column": column, "window": "3h"}
            for aggregate in ("sum", "mean", "std")
            for column in ("fare", "riders")
        }
        | {"spread_fare": {"ratio": ["std_fare", "mean_fare"]}}
    )
    fares = [1e308, -1e308, 5e-324, 0.1, 1e16, 1.0, -1.0, 2.0**52, 2.0**-53, -(2.0**-53), None]
    counts = [2**63 - 1, -(2**63), 1, -1, 2**53 + 1, None]
    events, rows = [], []
    for zone in map(str, range(200)):
        rows.append((zone, 1, START))
        for place in range(chance.randrange(1, 12)):
            fare = chance.choice(
                [*fares, chance.uniform(-1, 1) * 2.0 ** chance.randrange(-1000, 1000)]
            )
            id_, riders = f"{zone}-{place}", chance.choice(counts)
            events.append(Event(id_, START, START, zone=zone, fare=fare, riders=riders))
    found = spark.query(
        feature_rows_sql(view, STREAMS, "spark"),
        entity_rows=questions(rows),
        records_rides=rides(events),
    )

    assert by_stream(view, events, rows) == in_order(view, found, rows)

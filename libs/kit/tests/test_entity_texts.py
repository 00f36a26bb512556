# SPDX-License-Identifier: Apache-2.0
"""An entity has one spelling, whichever engine looks for it in a column."""

from __future__ import annotations

import tempfile

import duckdb
import polars as pl
import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.entity import text_of
from headrace_kit.entity_texts import (
    END,
    LEAST,
    entity_text_sql,
    entity_texts,
    float64_text,
)

EDGES = [0.0, -0.0, 5.0, 0.1 + 0.2, 1e15, 1e16, 1e17, 1e22, 1e-5, 1e-7, 5e-324, 1.7e308]
EDGES += [LEAST, END, 2.0**63, 2.0**63 - 1024, 2.0**53 + 2, 2.0**52 + 0.5]
NUMBERS = st.floats() | st.sampled_from([*EDGES, *(-each for each in EDGES)])
NUMBERS |= st.integers(-(2**63), 2**63).map(float) | st.floats(1e-5, 1e17)
NUMBERS |= st.decimals(-1_000_000, 1_000_000, places=3).map(float)


def by_duckdb(table, sql):
    with duckdb.connect() as database:
        database.register("rows", table)
        query = f"select {sql} from rows order by n"  # noqa: S608 - a column of our own
        return [text for (text,) in database.sql(query).fetchall()]


def by_datafusion(table, sql):
    """Which reads what Delta has, and deletes of it."""
    with tempfile.TemporaryDirectory() as folder:
        write_deltalake(folder, table)
        builder = QueryBuilder().register("rows", DeltaTable(folder))
        query = f"select {sql} as text from rows order by n"  # noqa: S608 - as above
        return pl.DataFrame(builder.execute(query))["text"].to_list()


@settings(max_examples=20)
@given(numbers=st.lists(st.none() | NUMBERS, min_size=1, max_size=100))
def test_number_has_one_spelling_whoever_asks(numbers):
    table = pa.table({"n": range(len(numbers)), "x": pa.array(numbers, pa.float64())})
    sql = entity_text_sql("x", float64=True)
    expected = [None if each is None else float64_text(each) for each in numbers]

    assert expected == by_duckdb(table, sql)
    assert expected == by_datafusion(table, sql)
    assert expected == entity_texts(pl.Series(numbers, dtype=pl.Float64)).to_list()


@given(number=NUMBERS)
def test_spelling_of_a_number_is_that_of_the_entity_or_none(number):
    assert float64_text(number) in (None, text_of(number))


def test_entities_that_people_have_are_spelled():
    spelled = {5.0: "5", -0.0: "0", 2.5: "2.5", 1e16: "10000000000000000", 0.0001: "0.0001"}

    assert [*spelled.values()] == [float64_text(each) for each in spelled]


def test_texts_whole_numbers_and_truths_are_as_they_are():
    for values in (["5.0", "x", None], [5, -7, None], [True, False, None]):
        expected = [None if each is None else text_of(each) for each in values]
        table = pa.table({"n": [0, 1, 2], "x": values})
        sql = entity_text_sql("x", float64=False)

        assert expected == entity_texts(pl.Series(values)).to_list()
        assert expected == by_duckdb(table, sql)
        assert expected == by_datafusion(table, sql)

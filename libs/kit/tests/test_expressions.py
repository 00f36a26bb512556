# SPDX-License-Identifier: Apache-2.0
"""One expression, one answer: polars and DuckDB agree on every value and type."""

from __future__ import annotations

import math

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.expression import parse_expression
from headrace.expression_sql import to_sql
from headrace_kit.expressions import DTYPE_BY_TYPE, to_polars

TYPES = {
    "i": "int64",
    "j": "int64",
    "x": "float64",
    "y": "float64",
    "s": "string",
    "u": "string",
    "b": "bool",
    "t": "timestamp",
}
INTEGERS = [0, 1, -1, 7, 2**53 + 1, 2**62, -(2**63), 2**63 - 1]
FLOATS = [0.0, -0.0, 0.5, -2.5, 1e-300, 1e300, -1.7976931348623157e308, 5e-324, 2.0**63, 3.0]
TEXTS = [
    "",
    " ",
    "Ab",
    "\u00a0é\u2003",
    "ß👍İ",
    "12",
    "-3.5e2",
    "5\n",
    "1e999",
    "a%_b",
    "'",
    "x" * 9,
]
VALUES = {
    "int64": st.none() | st.sampled_from(INTEGERS) | st.integers(-(2**63), 2**63 - 1),
    "float64": st.none()
    | st.sampled_from(FLOATS)
    | st.floats(allow_nan=False, allow_infinity=False),
    "string": st.none()
    | st.sampled_from(TEXTS)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
    "bool": st.none() | st.booleans(),
    "timestamp": st.none() | st.integers(0, 2**53),
}


def quoted(text: str) -> str:
    return "'{}'".format(text.replace("'", "''"))


LEAVES = {
    "int64": st.sampled_from(["i", "j"]) | st.sampled_from(INTEGERS).map(str),
    "float64": st.sampled_from(["x", "y"]) | st.sampled_from(FLOATS).map(repr),
    "string": st.sampled_from(["s", "u"]) | st.sampled_from(TEXTS).map(quoted),
    "bool": st.sampled_from(["b", "TRUE", "FALSE"]),
    "timestamp": st.sampled_from(["t", "TIMESTAMP '2013-01-31T09:15:00Z'"]),
}


def each(form: str, *words: str) -> list[str]:
    return [form.replace("?", word) for word in words]


# Templates by the type of their value; {int64} and so on is any expression of that type.
FORMS = {
    "int64": [
        *each("({int64} ? {int64})", *"+-*%"),
        "(- {int64})",
        "ABS({int64})",
        "LENGTH({string})",
        "({timestamp} - {timestamp})",
        *each("CAST(? AS int64)", "{float64}", "{string}", "{bool}", "{timestamp}"),
    ],
    "float64": [
        *each("({float64} ? {float64})", *"+-*/"),
        "({int64} / {float64})",
        "({int64} + {float64})",
        "(- {float64})",
        "ROUND({float64}, 2)",
        *each("?({float64})", "ABS", "FLOOR", "CEIL", "ROUND", "SQRT", "LN", "EXP"),
        *each("CAST(? AS float64)", "{int64}", "{string}"),
    ],
    "string": [
        "({string} || {string})",
        *each("?({string})", "LOWER", "UPPER", "TRIM"),
        "SUBSTRING({string}, 2)",
        "SUBSTRING({string}, 1, 3)",
        "CAST({int64} AS string)",
        "CAST({bool} AS string)",
    ],
    "bool": [
        *each("({float64} ? {int64})", "=", "<>", "<", "<=", ">", ">="),
        *each("({string} ? {string})", "=", "<", ">="),
        "({int64} < {int64})",
        "({timestamp} >= {timestamp})",
        "({bool} AND {bool})",
        "({bool} OR {bool})",
        "(NOT {bool})",
        *each("(? IS NULL)", "{float64}", "{string}", "{bool}"),
        "({int64} IN (0, 1, -9223372036854775808))",
        "({float64} NOT IN (0.5, 3))",
        "({string} IN ('Ab', ''))",
        "({string} LIKE '%b_')",
        "({float64} BETWEEN {int64} AND {float64})",
    ],
    "timestamp": ["({timestamp} + {int64})", "CAST({int64} AS timestamp)"],
}
for name in FORMS:
    one = f"{{{name}}}"
    FORMS[name] += [
        f"CASE WHEN {{bool}} THEN {one} ELSE {one} END",
        f"CASE {{int64}} WHEN 1 THEN {one} WHEN {{int64}} THEN {one} END",
        f"COALESCE({one}, NULL, {one})",
        f"NULLIF({one}, {one})",
    ]
    if name != "bool":
        FORMS[name] += [f"LEAST({one}, {one})", f"GREATEST({one}, {one})"]


@st.composite
def texts(draw: st.DrawFn, type_: str, depth: int) -> str:
    """The text of an expression of this type."""
    if depth == 0 or draw(st.integers(0, 4)) == 0:
        return draw(LEAVES[type_])
    text = draw(st.sampled_from(FORMS[type_]))
    for name in TYPES.values():
        while (hole := f"{{{name}}}") in text:
            text = text.replace(hole, draw(texts(name, depth - 1)), 1)
    return text


rows = st.lists(st.tuples(*(VALUES[each] for each in TYPES.values())), min_size=1, max_size=6)


def frame_of(values: list[tuple]) -> pl.DataFrame:
    schema = {name: DTYPE_BY_TYPE[each] for name, each in TYPES.items()}
    return pl.DataFrame(values, schema=schema, orient="row")


def answers(text: str, frame: pl.DataFrame) -> tuple[pl.Series, pl.Series]:
    """By polars and by DuckDB."""
    expression = parse_expression(text, TYPES)
    by_polars = frame.with_columns(answer=to_polars(expression))["answer"]
    with duckdb.connect() as connection:
        connection.register("records", frame.to_arrow())
        sql = f"SELECT {to_sql(expression, 'duckdb')} AS answer FROM records"  # noqa: S608
        by_duckdb = pl.from_arrow(connection.sql(sql).to_arrow_table())["answer"]
    assert DTYPE_BY_TYPE[expression.type] == by_polars.dtype
    assert DTYPE_BY_TYPE[expression.type] == by_duckdb.dtype
    return by_polars, by_duckdb


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(FORMS)).flatmap(lambda t: texts(t, 3)), rows)
def test_polars_and_duckdb_give_the_same_answers(text: str, values: list[tuple]):
    by_polars, by_duckdb = answers(text, frame_of(values))

    assert by_duckdb.to_list() == by_polars.to_list()


@settings(max_examples=100, deadline=None)
@given(texts("float64", 4), rows)
def test_a_float_is_finite_or_null(text: str, values: list[tuple]):
    by_polars, _ = answers(text, frame_of(values))

    assert [] == [each for each in by_polars if each is not None and not math.isfinite(each)]


ONE = (7, None, 2.5, 0.0, " Ab ", None, None, 1_000_000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("i / 2", 3.5),
        ("x / y", None),
        ("0 / y", None),
        ("i / 0", None),
        ("i % 0", None),
        ("-i % 4", -3),
        ("i % -4", 3),
        ("9223372036854775807 + i", None),
        ("ABS(-9223372036854775808)", None),
        ("x * 1e308", None),
        ("1 / (x / y)", None),
        ("ROUND(x)", 3.0),
        ("ROUND(-x)", -3.0),
        ("ROUND(2.675, 2)", 2.68),
        ("FLOOR(-x)", -3.0),
        ("CAST(-x AS int64)", -2),
        ("CAST(9.3e18 AS int64)", None),
        ("CAST('12' AS int64)", 12),
        ("CAST('12.0' AS int64)", None),
        ("CAST(' 12' AS int64)", None),
        ("CAST('5\n' AS int64)", None),
        ("CAST('1e999' AS float64)", None),
        ("CAST(b AS string)", None),
        ("b AND FALSE", False),
        ("b OR TRUE", True),
        ("b AND TRUE", None),
        ("j IN (1, 2)", None),
        ("s || u", None),
        ("CONCAT(s, '!')", " Ab !"),
        ("COALESCE(TRUE, NULL, EXP(0.0) = i)", True),
        ("TRIM(s)", "Ab"),
        ("LOWER('ÄB')", "Äb"),
        ("LENGTH('👍é')", 2),
        ("SUBSTRING('a👍é', 2, 1)", "👍"),
        ("'a\nb' LIKE 'a%'", True),
        ("'ab' LIKE 'a'", False),
        ("LEAST(j, 3)", 3),
        ("LEAST(j, NULL)", None),
        ("CASE WHEN b THEN 1 ELSE 2 END", 2),
        ("CASE i WHEN 7 THEN 'seven' END", "seven"),
        ("t - TIMESTAMP '1970-01-01T00:00:00Z'", 1_000_000),
        ("t + 5", 1_000_005),
        ("SQRT(-x)", None),
        ("LN(y)", None),
        ("x = 2.5 AND i BETWEEN 7 AND 8", True),
    ],
)
def test_meaning(text: str, expected: object):
    by_polars, by_duckdb = answers(text, frame_of([ONE]))

    assert [expected] == by_polars.to_list()
    assert [expected] == by_duckdb.to_list()


def test_spark_text_holds_no_duckdb_word():
    expression = parse_expression("CAST(TRIM(s) AS float64) / ABS(i) + i % 2", TYPES)

    assert "HUGEINT" not in to_sql(expression, "spark")
    assert "isfinite" not in to_sql(expression, "spark")

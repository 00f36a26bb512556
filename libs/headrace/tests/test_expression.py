# SPDX-License-Identifier: Apache-2.0
"""What the expression language takes, what it refuses, and what it says then."""

from __future__ import annotations

import subprocess
import sys

import pytest

from headrace.errors import Invalid
from headrace.expression import parse_expression

TYPES = {"i": "int64", "x": "float64", "s": "string", "b": "bool", "t": "timestamp"}


@pytest.mark.parametrize(
    ("text", "type_"),
    [
        ("i + 1", "int64"),
        ("i + x", "float64"),
        ("i / 2", "float64"),
        ("t - t", "int64"),
        ("t - 60000000", "timestamp"),
        ("s || '!'", "string"),
        ("i > 1 AND b", "bool"),
        ("COALESCE(NULL, i, 1.5)", "float64"),
        ("CASE WHEN b THEN NULL ELSE s END", "string"),
        ("CAST(NULL AS float64)", "float64"),
        ("LENGTH(s)", "int64"),
        ('"i" -- quoted, and said why', "int64"),
    ],
)
def test_type_is_inferred(text: str, type_: str):
    assert type_ == parse_expression(text, TYPES).type


def test_known_columns_that_are_not_shown_are_counted():
    types = {f"c{each:02}": "int64" for each in range(13)}
    with pytest.raises(Invalid, match="c10, c11 and 1 more;"):
        parse_expression("nope = 1", types)


def test_columns_are_those_read():
    assert {"i", "s"} == parse_expression("CASE WHEN i > 1 THEN s END", TYPES).columns


@pytest.mark.parametrize(
    ("text", "position", "told"),
    [
        ("1 + s", 1, "needs numbers, and one is of type string; CAST"),
        ("1 + nowhere", 5, "column nowhere is unknown"),
        ("i +", 3, "is no expression"),
        ("i AND b", 1, "a condition is needed; write a comparison"),
        ("s > 1", 1, "compares string with int64"),
        ("x % 2", 1, "CAST both sides to int64"),
        ("NULL", 1, "write CAST(NULL AS int64)"),
        ("9223372036854775808", 1, "does not fit int64"),
        ("t + t", 1, "times are subtracted"),
        ("t > TIMESTAMP '2013-01-31'", 15, "with a zone"),
        ("CAST(s AS date)", 6, "is no type; string, int64"),
        ("CAST(x AS string)", 6, "cannot be cast"),
        ("i IN (x)", 1, "literals"),
        ("s LIKE s", 1, "LIKE takes a text"),
        ("ROUND(x, i)", 10, "a whole number from 0 to 15"),
        ("", 1, "is no expression"),
        ("i" * 5000, 1, "longer than 4096"),
    ],
)
def test_misuse_is_told_with_its_position(text: str, position: int, told: str):
    with pytest.raises(Invalid, match="BAD_DEFINITION") as raised:
        parse_expression(text, TYPES)

    assert told in raised.value.metadata["problem"]
    assert str(position) == raised.value.metadata["position"]


@pytest.mark.parametrize(
    ("text", "position", "told"),
    [
        ("i +", 3, "a value is missing at +"),
        ("", 1, "it is empty"),
        ("(i", 2, "a ) is missing"),
        ("i)", 2, ") is not expected here"),
        ("i =\n 1 2", 8, "2 is not expected here"),
        ("CASE WHEN b THEN 1", 18, "a CASE ends with END"),
        ("CAST(i int64)", 12, "write CAST(x AS int64)"),
        ("CAST(i AS )", 11, "write CAST(x AS int64)"),
        ("LOWER(s, s)", 11, "takes fewer values"),
        ("'unclosed", 1, "a quote is not closed"),
        ("1 i", 1, "an operator is missing"),
        ("i; i", 1, "without a semicolon"),
        ("IF(b, 1, 2)", 4, "CASE WHEN"),
        ("s ILIKE 'a'", 1, "LOWER(x) LIKE"),
        ("i // 2", 1, "FLOOR(x / y)"),
        ("x ^ 2", 1, "x * x"),
        ("TRY_CAST(s AS int64)", 10, "written CAST"),
        ("1e", 1, "1e is no number"),
    ],
)
def test_fault_is_told_in_plain_words(text: str, position: int, told: str):
    with pytest.raises(Invalid, match="BAD_DEFINITION") as raised:
        parse_expression(text, TYPES)

    assert told in raised.value.metadata["problem"]
    assert str(position) == raised.value.metadata["position"]


@pytest.mark.parametrize(
    "text",
    [
        "SUM(i)", "NOW()", "RANDOM()", "(SELECT 1)", "i IN (SELECT 1)", "EXISTS(SELECT 1)", "i; i",
        "t.i", "i @ x", "i[1]", "COUNT(*)", "LOWER(DISTINCT s)", "SUM(i) OVER ()", "x -> x", "?",
        "$1", "*", "read_csv('x')", "TRIM(BOTH 'x' FROM s)", "i BETWEEN SYMMETRIC 1 AND 2",
        "TRY_CAST(s AS int64)", "INTERVAL '1' DAY", "IF(b, 1, 2)", "s ILIKE 'a'", "'unclosed",
        "s LIKE 'a' ESCAPE '!'", "'\0'", "'\ud800'", "{'a': 1}", "LAMBDA x : x", "i COLLATE x",
    ],
)  # fmt: skip
def test_what_is_not_in_the_language_is_refused(text: str):
    with pytest.raises(Invalid, match="BAD_DEFINITION"):
        parse_expression(text, TYPES)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 2000,
        "(" * 80 + "i" + ")" * 80,
        "NOT " * 1000 + "b",
        "+".join(["i"] * 300),
        "NULLIF(" * 150 + "i" + ", 1)" * 150,
        "1 / (" * 40 + "x" + ")" * 40,
    ],
)
def test_depth_and_size_are_bounded(text: str):
    with pytest.raises(Invalid, match="split it"):
        parse_expression(text, TYPES)


def test_importing_headrace_imports_no_parser():
    code = "import sys, headrace.client, headrace.expression; print('sqlglot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "False" == done.stdout.strip()

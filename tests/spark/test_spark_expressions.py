# SPDX-License-Identifier: Apache-2.0
"""One expression, one answer: Spark agrees with polars on every value and type."""

import polars as pl
import pytest
from hypothesis import strategies as st
from test_expressions import FORMS, TYPES, VALUES, texts
from tests.spark.drawn import drawn

from headrace.expression import parse_expression
from headrace.expression_sql import to_sql
from headrace_kit.expressions import DTYPE_BY_TYPE, to_polars

pytestmark = [pytest.mark.spark, pytest.mark.timeout(3_600)]

ROWS, EXPRESSIONS = 40, 100
EACH = st.sampled_from(sorted(FORMS)).flatmap(lambda type_: texts(type_, 3))


def same(one: object, other: object) -> bool:
    """-0.0 is 0.0, as it is to every comparison."""
    return type(one) is type(other) and one == other


def test_polars_and_spark_give_the_same_answers(spark):
    rows = drawn(st.tuples(*(VALUES[each] for each in TYPES.values())), ROWS)
    schema = {name: DTYPE_BY_TYPE[each] for name, each in TYPES.items()}
    frame = pl.DataFrame(rows, schema=schema, orient="row").with_row_index("row")
    # LN and EXP may differ in the last digit.
    inexact = ("LN(", "EXP(")
    said = [each for each in drawn(EACH, EXPRESSIONS) if not any(i in each for i in inexact)]
    expressions = [parse_expression(each, TYPES) for each in said]
    columns = ", ".join(f"{to_sql(e, 'spark')} AS e{n}" for n, e in enumerate(expressions))
    table = frame.with_columns(pl.col("row").cast(pl.Int64)).to_arrow()
    found = spark.query(f"SELECT row, {columns} FROM records", records=table)  # noqa: S608

    by_spark = pl.from_arrow(found).sort("row")
    for place, expression in enumerate(expressions):
        expected = frame.with_columns(answer=to_polars(expression))["answer"]
        answers = by_spark[f"e{place}"]
        assert expected.dtype == answers.dtype, expression.text
        pairs = zip(expected.to_list(), answers.to_list(), strict=True)
        differ = [(frame.row(n), *pair) for n, pair in enumerate(pairs) if not same(*pair)]
        assert [] == differ[:1], expression.text

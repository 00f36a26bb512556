# SPDX-License-Identifier: Apache-2.0
"""How one value is spelled in SQL: a text of an entity, a number, what is answered."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from headrace.view_sql import exact

FLOAT32_MAX = "3.4028234663852886e38"
# A float64 beyond has no fraction, and its text may differ between engines.
WHOLE_MAX = "1e15"


def entity_text(parts: Sequence[tuple[str, str]]) -> str:
    """The text that names an entity, null where a part is: lengths keep several values apart."""
    texts = [text(column, kind) for column, kind in parts]
    if len(texts) == 1:
        return texts[0]
    return " || ".join(f"CAST(LENGTH({text}) AS TEXT) || ':' || {text}" for text in texts)


def text(column: str, kind: str) -> str:
    """As an entity is spelled: 5 and 5.0 are one, the empty text is none."""
    if kind == "string":
        return f"NULLIF({column}, '')"
    if kind == "bool":
        return f"CASE WHEN {column} THEN 'true' WHEN NOT {column} THEN 'false' END"
    if kind == "float64":
        whole = f"CAST(CAST({column} AS BIGINT) AS TEXT)"
        return (
            f"CASE WHEN {column} = FLOOR({column}) AND ABS({column}) < {WHOLE_MAX} THEN {whole}"
            f" ELSE CAST({column} AS TEXT) END"
        )
    return f"CAST({column} AS TEXT)"


def tie_breakers(columns: Sequence[tuple[str, str]]) -> list[str]:
    """The order of repeats that were known at one time, by their names and types.

    As the service has it for numbers: first who lacks the last of the columns, then by the values
    of the last, negative floats before others and by their size. Texts lie in their own order.
    """
    lacking = [f"CASE WHEN {name} IS NULL THEN 0 ELSE 1 END" for name, _ in reversed(columns)]
    values = []
    for name, kind in reversed(columns):
        if kind == "float64":
            values += [f"CASE WHEN {name} < 0 THEN 0 ELSE 1 END", f"ABS({name})"]
        else:
            values.append(name)
    return [*lacking, *values]


def quoted(column: str) -> str:
    return f'"{column}"'


def number_of(column: exp.Expr, kind: str) -> exp.Expr:
    return exp.cast(column, "BIGINT") if kind == "bool" else column


def or_default(value: str, default: float | None) -> str:
    return value if default is None else f"COALESCE({value}, CAST('{default!r}' AS DOUBLE))"


def float32(value: str) -> str:
    """Beyond the range is its end, minus zero is zero."""
    bounded = exact.bounded(value, FLOAT32_MAX)
    return f"CAST(CASE WHEN {value} = 0 THEN 0e0 ELSE {bounded} END AS REAL)"

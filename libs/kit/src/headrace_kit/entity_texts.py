# SPDX-License-Identifier: Apache-2.0
"""How an entity is spelled where a column is searched for it: as `headrace.entity.text_of` says.

Engines differ in the text of a float64: 5 is 5.0 to all of them, and 1e16 is 1e+16 to DuckDB and
1e16 to DataFusion. So a whole number is spelled by its digits, and another one by the engine where
all of them agree. What is beyond has no text here, and names no entity that can be looked for.
"""

from __future__ import annotations

import polars as pl

from headrace.entity import text_of

# In size: whole numbers below, and others from the least up to the end.
WHOLE_END = 2**63
LEAST, END = 1e-4, 1e16


def entity_text_sql(column: str, *, float64: bool) -> str:
    """Of a column that is of float64 or not, for DuckDB and DataFusion; null where there is none.

    A column's name is letters, digits and _ by the contract.
    """
    name = f'"{column}"'
    if not float64:
        return f"cast({name} as varchar)"
    whole = f"{name} = floor({name}) and abs({name}) < {WHOLE_END}"
    # DataFusion may cast where the condition does not hold.
    digits = f"cast(cast(case when {whole} then {name} else 0 end as bigint) as varchar)"
    alike = f"abs({name}) >= {LEAST} and abs({name}) < {END:.0f}"
    return f"case when {whole} then {digits} when {alike} then cast({name} as varchar) end"


def entity_texts(values: pl.Series) -> pl.Series:
    """The same of each value."""
    texts = values.cast(pl.String)
    if values.dtype != pl.Float64:
        return texts
    size = values.abs()
    digits = values.cast(pl.Int64, strict=False).cast(pl.String)
    whole = (values == values.floor()) & (size < WHOLE_END)
    alike = (size >= LEAST) & (size < END)
    spelled = pl.when(whole).then(digits).when(alike).then(texts)
    return pl.select(spelled).to_series().alias(values.name)


def float64_text(number: float) -> str | None:
    """The same of one number."""
    size = abs(number)
    there = size < WHOLE_END if number.is_integer() else LEAST <= size < END
    return text_of(number) if there else None

# SPDX-License-Identifier: Apache-2.0
"""The records of a view's stream that make a row of its feature table, in SQL.

A row is made as of the moment when its record had happened and was known. Of a repeated id the
first known counts, so that an id is in the table once.
"""

from __future__ import annotations

from headrace.expression_sql import to_sql
from headrace_feature.adapters.training_rows_sql import Types, column_of, quoted, text_of_column
from headrace_feature.domain.views import Layout

MOMENT = "greatest(_event_time_us, _known_time_us)"


def round_end_sql(since_us: int, until_us: int, rows_max: int) -> str:
    """The first moment of the records after one moment and up to another, and that of the one
    behind `rows_max` of them."""
    return f"""
with moments as (
  select {MOMENT} as moment_us from records
  where {MOMENT} > {since_us} and {MOMENT} <= {until_us}
)
select (select min(moment_us) from moments),
  (select moment_us from moments order by moment_us limit 1 offset {rows_max})"""  # noqa: S608


def view_rows_sql(layout: Layout, types: Types, since_us: int, until_us: int) -> str:
    """Over the table `records`, whose columns have these types and which holds all after the one
    moment, and `archived`, which holds all there is: an id may have come before.
    """
    named = sorted({*layout.entity, *(layout.filter.columns if layout.filter else ())})
    columns = "".join(f", {column_of(name, types)} as {quoted(name)}" for name in named)
    told = ", ".join(["_known_time_us", "_event_time_us", *map(quoted, named)])
    counts = to_sql(layout.filter, "duckdb") if layout.filter else "true"
    entity = " and ".join(f"{text_of_column(name, types)} is not null" for name in layout.entity)
    return f"""
with candidates as (
  select _event_id, _event_time_us, _known_time_us, {MOMENT} as _as_of_us{columns}
  from records where {MOMENT} > {since_us} and {MOMENT} <= {until_us}
  qualify row_number() over (partition by _event_id order by {told}) = 1
)
select _event_id, _event_time_us, _as_of_us as as_of_us, {", ".join(map(quoted, layout.entity))}
from candidates
where ({counts}) and {entity} and not exists (
  select 1 from archived as earlier where earlier._event_id = candidates._event_id
    and (earlier._known_time_us, earlier._event_time_us)
      < (candidates._known_time_us, candidates._event_time_us)
)
order by _as_of_us, _event_id"""  # noqa: S608 - names are columns of a contract, quoted

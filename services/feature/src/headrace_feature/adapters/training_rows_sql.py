# SPDX-License-Identifier: Apache-2.0
"""The rows of a recipe in SQL: who is asked about, when, and the label, by what was known.

A row is a record of the spine that was itself known when it is asked. Its label is the first known
value for its key; where none was known within `absent_after` of the row's time, the outcome did not
come: 1, known at that moment. A row whose label is not known yet is left out. Weak labels that were
taken back are as if they had never been.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from headrace.application import Recipe
from headrace.label_definition import NO_VOTES, WEAK
from headrace_feature.domain.views import WeakColumns

SECOND_US = 1_000_000
# A hugeint is below 2^127 in size.
DIGITS_END = 2.0**127
Types = Mapping[str, str]


def training_rows_sql(
    recipe: Recipe,
    columns: Collection[str],
    spine: Types,
    labels: Types,
    known_until_us: int,
    *,
    weak: Collection[WeakColumns] = (),
) -> str:
    """Over the tables `spine_records` and `label_records`, whose columns have these types."""
    return f"""
with {_asked_and_first(recipe, columns, spine, labels, known_until_us, weak)}
select asked._key as entity_key, asked._as_of_us as as_of_us,
  cast(case when first.known_us <= asked._absent_us and not answer then 0 else 1 end as float)
    as label
  {"".join(f", asked.{quoted(name)}" for name in sorted(columns))}
from asked left join first on asked._key = first.key
where {_left_out(known_until_us)} is null
order by asked._as_of_us, asked._event_id"""  # noqa: S608 - names are columns of a contract, quoted


def spine_tally_sql(
    recipe: Recipe,
    spine: Types,
    labels: Types,
    known_until_us: int,
    *,
    weak: Collection[WeakColumns] = (),
) -> str:
    """Over the same tables: of the records that are rows (null), and of those that are left out for
    each reason, how many, and the event times of the first and the last."""
    return f"""
with {_asked_and_first(recipe, (), spine, labels, known_until_us, weak)}
select {_left_out(known_until_us)} as left_out, count(*), min(_event_time_us), max(_event_time_us)
from asked left join first on asked._key = first.key
group by left_out order by left_out"""  # noqa: S608 - names are columns of a contract, quoted


def raw_offsets_sql(known_until_us: int) -> str:
    """Over the table `records`: of each raw partition, the offsets of the first and the last."""
    return f"""
select _partition, min(_offset), max(_offset) from records
where _known_time_us <= {known_until_us} and _partition is not null and _offset is not null
group by _partition order by _partition"""  # noqa: S608 - a number


def _left_out(known_until_us: int) -> str:
    """Why a record is no row; null for one that is."""
    return f"""case
  when asked._key is null or asked._as_of_us is null then 'key_or_time_absent'
  when asked._known_time_us > asked._as_of_us then 'known_after_asked'
  when asked._as_of_us > {known_until_us} then 'asked_after_known_until'
  when coalesce(first.known_us <= asked._absent_us, false) then null
  when asked._absent_us > {known_until_us} then 'label_awaited' end"""


def _asked_and_first(
    recipe: Recipe,
    columns: Collection[str],
    spine: Types,
    labels: Types,
    known_until_us: int,
    weak: Collection[WeakColumns],
) -> str:
    """Who is asked about, and the first known label by key."""
    time, rule = column_of(recipe.spine.time, spine), recipe.label
    offset_us = recipe.spine.offset_s * SECOND_US
    absent_us = rule.absent_after_s * SECOND_US
    key = text_of_column(recipe.spine.entity_key, spine)
    wanted = ", ".join(f"{column_of(name, spine)} as {quoted(name)}" for name in sorted(columns))
    return f"""asked as (
  select _event_id, _event_time_us, _known_time_us, {key} as _key,
    cast({time} as bigint) + {offset_us} as _as_of_us,
    cast({time} as bigint) + {absent_us} as _absent_us{", " if wanted else ""}{wanted}
  from ({_once_each("spine_records", known_until_us)})
),
first as (
  select key, min(known_us) as known_us, arg_min(answer, rank) as answer
  from (
    select {text_of_column(rule.key, labels)} as key, _known_time_us as known_us,
      {_number(rule.column, labels)} > {rule.above!r} as answer,
      row(_known_time_us, _event_time_us, _event_id) as rank
    from ({_standing(_once_each("label_records", known_until_us), labels, weak)})
    where {_number(rule.column, labels)} is not null
  )
  where key is not null
  group by key
)"""  # noqa: S608 - names are columns of a contract, quoted


def _once_each(table: str, known_until_us: int) -> str:
    """Repeats of an id are left out: the first known stays."""
    return f"""select * from {table} where _known_time_us <= {known_until_us}
  qualify row_number() over (partition by _event_id order by _known_time_us, _event_time_us) = 1"""  # noqa: S608


def _standing(records: str, types: Types, weak: Collection[WeakColumns]) -> str:
    """Without the weak labels that one without votes, known later, takes back."""
    for key, origin, votes in sorted(weak):
        if origin in types and votes in types:
            said = f"{quoted(origin)} = '{WEAK}' and {quoted(votes)} is not null"
            records = f"""select * from ({records}) qualify not coalesce({said} and
  _known_time_us <= max(_known_time_us) filter ({said} and {quoted(votes)} = '{NO_VOTES}')
  over (partition by {column_of(key, types)}, _event_time_us), false)"""  # noqa: S608
    return records


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def column_of(name: str, types: Types) -> str:
    """A column that the archive lacks is absent."""
    return quoted(name) if name in types and types[name] != "null" else "cast(null as bigint)"


def _number(name: str, types: Types) -> str:
    """Texts have no numbers."""
    return "cast(null as bigint)" if "string" in types.get(name, "") else column_of(name, types)


def text_of_column(name: str, types: Types) -> str:
    """As an entity is spelled: 5 and 5.0 are one, the empty text is none."""
    column = column_of(name, types)
    if types.get(name) != "double":
        return f"nullif(cast({column} as varchar), '')"
    # More than is looked for by others (`headrace_kit.entity_texts`): as far as DuckDB has digits.
    whole = f"{column} = floor({column}) and abs({column}) < {DIGITS_END:.0f}"
    digits = f"cast(cast(case when {whole} then {column} end as hugeint) as varchar)"
    other = f"case when {column} <> floor({column}) then cast({column} as varchar) end"
    return f"case when {whole} then {digits} else {other} end"

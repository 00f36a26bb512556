# SPDX-License-Identifier: Apache-2.0
"""The query of a view: what each question sees, its aggregates, and what is made of these.

It answers what `headrace.feature_view` says, by the same rules as the service and by none of its
code: repeats of an id are left out, a record counts once it was known, and every number is rounded
as often as there, so that the bits are the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

from sqlglot import exp

from headrace.application import Stream
from headrace.errors import Invalid
from headrace.expression import Expression, parse_expression
from headrace.expression_sql import Dialect
from headrace.feature_view import Lookup, RatioFeature, StreamView, WindowFeature, features_by_name
from headrace.view_sql import exact
from headrace.view_sql.edges import SECOND_US, Window, edged
from headrace.view_sql.exact import QUESTION
from headrace.view_sql.needs import Column, Needs
from headrace.view_sql.steps import WRITTEN_IN, Steps, chosen, exploded, named, parsed, spelled
from headrace.view_sql.values import (
    entity_text,
    float32,
    number_of,
    or_default,
    quoted,
    tie_breakers,
)

ENTITY_ROWS, AS_OF = "entity_rows", "as_of_us"


def records_table(stream: str) -> str:
    """The name of the table with a stream's archived records."""
    return "records_" + re.sub(r"\W", "_", stream)


def feature_rows_sql(
    view: StreamView,
    streams: Mapping[str, Stream],
    dialect: Dialect,
    *,
    known_as_of_us: int | None = None,
) -> str:
    """The features of each different row of `entity_rows`, by what was known at its moment.

    `entity_rows` has the view's entity columns, typed as in the contract, and `as_of_us` BIGINT;
    `records_table(stream)` what the archive has of a stream. Answered are the entity's columns,
    `as_of_us` and each feature as FLOAT, null where absent. Nothing that became known after
    `known_as_of_us` counts. Raises Invalid BAD_DEFINITION where the streams do not fit the view.
    """
    return _Query(view, streams, known_as_of_us).sql(dialect)


class _Query:
    def __init__(
        self, view: StreamView, streams: Mapping[str, Stream], known_as_of_us: int | None
    ) -> None:
        self._view, self._streams, self._known_as_of_us = view, streams, known_as_of_us
        self._steps, self._needs = Steps(), Needs()
        self._stream = self._found(view.stream)
        self._types = {name: column.type for name, column in self._stream.columns.items()}

    def sql(self, dialect: Dialect) -> str:
        answers = self._answers()
        asked = self._asked()
        observed = self._observed()
        seen = self._seen(edged(self._steps, asked, self._needs.windows), observed)
        for number, (name, lookup) in enumerate(sorted(self._view.lookups.items())):
            if Column(name, self._kind(name)) in self._needs.columns:
                seen = self._looked_up(seen, observed, number, name, lookup)
        joined = self._joined(asked, self._aggregated(seen))
        return self._steps.sql(self._finished(joined, answers), dialect)

    # --- what is asked and what is there ---

    def _asked(self) -> str:
        """Each different question once; `k<n>` are the entity's columns as they came."""
        keys = [exp.alias_(named(name), f"k{n}") for n, name in enumerate(self._view.entity)]
        rows = chosen(*keys, AS_OF).from_(ENTITY_ROWS).distinct()
        parts = [(f"k{number}", self._type(name)) for number, name in enumerate(self._view.entity)]
        entity = f"{entity_text(parts)} AS entity"
        return self._steps.add("asked", chosen("*", entity).from_(rows.subquery("asked_rows")))

    def _observed(self) -> str:
        """The records that count, each id once, in their order."""
        columns = [
            exp.alias_(self._source(column), f"v{number}")
            for number, column in enumerate(self._needs.columns)
            if column.source not in self._view.lookups
        ]
        keys = []
        for number, (_, lookup) in enumerate(sorted(self._view.lookups.items())):
            ours = [ours for _, ours in sorted(lookup.key.items())]
            parts = [(quoted(column), self._type(column)) for column in ours]
            keys.append(f"{entity_text(parts)} AS key_{number}")
        kinds = {
            column.source: (f"v{number}", column.kind)
            for number, column in enumerate(self._needs.columns)
            if column.source not in self._view.lookups
        }
        ties = tie_breakers([kinds[source] for source in sorted(kinds)])
        return self._once_each(
            "observed", self._stream, self._view.entity, [*columns, *keys], self._filter(), ties
        )

    def _once_each(
        self,
        name: str,
        stream: Stream,
        entity: Sequence[str],
        columns: Sequence[exp.Expr | str],
        condition: exp.Expr | None,
        ties: Sequence[str],
    ) -> str:
        """Of repeats the first known stays, of several the first by `ties`.

        `place`: by (event time, id) among the entity's.
        """
        types = {each: column.type for each, column in stream.columns.items()}
        parts = [(quoted(column), types[column]) for column in entity]
        read = chosen(
            f"{entity_text(parts)} AS entity",
            "_event_id AS id",
            "_event_time_us AS event_us",
            "_known_time_us AS known_us",
            *columns,
        ).from_(exp.table_(records_table(stream.name), quoted=True))
        if condition is not None:
            read = read.where(condition)
        if self._known_as_of_us is not None:
            read = read.where(f"_known_time_us <= {self._known_as_of_us}")
        numbered = (
            chosen(
                "*",
                "ROW_NUMBER() OVER (PARTITION BY entity, event_us, id"
                f" ORDER BY {', '.join(['known_us', *ties])}) AS told",
            )
            .from_(read.subquery("read"))
            .where("NOT entity IS NULL")
        )
        placed = chosen(
            "*", "ROW_NUMBER() OVER (PARTITION BY entity ORDER BY event_us, id) AS place"
        )
        return self._steps.add(name, placed.from_(numbered.subquery("numbered")).where("told = 1"))

    def _seen(self, questions: str, observed: str) -> str:
        """What each question sees through any of its windows."""
        windows = range(len(self._needs.windows))
        inside = [
            f"o.event_us > q.since_{number} AND o.event_us <= q.until_{number}"
            for number in windows
        ]
        values = [
            f"o.v{number}"
            for number, column in enumerate(self._needs.columns)
            if column.source not in self._view.lookups
        ]
        flags = [f"({condition}) AS in_{number}" for number, condition in enumerate(inside)]
        any_of = " OR ".join(f"({condition})" for condition in inside)
        query = (
            chosen("q.entity", "q.as_of_us", "o.place", *values, *flags)
            .from_(f"{questions} AS q")
            .join(
                f"{observed} AS o",
                on=f"q.entity = o.entity AND o.known_us <= q.as_of_us AND ({any_of})",
            )
        )
        return self._steps.add("seen", query)

    def _looked_up(self, seen: str, observed: str, number: int, name: str, lookup: Lookup) -> str:
        """Adds the latest value of the other stream at the time of each record, as it was known."""
        other = self._found(lookup.stream)
        types = {each: column.type for each, column in other.columns.items()}
        value = self._needs.value(Column(name, self._kind(name)))
        held = exp.alias_(number_of(named(lookup.column), types[lookup.column]), "held")
        ties = tie_breakers([("held", types[lookup.column])])
        others = self._once_each(f"other_{number}", other, sorted(lookup.key), [held], None, ties)
        max_age_us = lookup.max_age_s * SECOND_US
        matched = self._steps.add(
            f"matched_{number}",
            chosen("o.entity", "o.place", "x.known_us", "x.place AS latest", "x.held")
            .from_(f"{observed} AS o")
            .join(
                f"{others} AS x",
                on=f"o.key_{number} = x.entity AND NOT x.held IS NULL"
                f" AND x.event_us > o.event_us - {max_age_us} AND x.event_us <= o.event_us",
            ),
        )
        found = self._steps.add(
            f"found_{number}",
            chosen("s.entity", "s.as_of_us", "s.place", f"ARG_MAX(m.held, m.latest) AS {value}")
            .from_(f"{seen} AS s")
            .join(
                f"{matched} AS m",
                on="s.entity = m.entity AND s.place = m.place AND m.known_us <= s.as_of_us",
            )
            .group_by("s.entity", "s.as_of_us", "s.place"),
        )
        same = (f"s.{column} = f.{column}" for column in (*QUESTION, "place"))
        return self._steps.add(
            f"seen_{number}",
            chosen("s.*", f"f.{value}")
            .from_(f"{seen} AS s")
            .join(f"{found} AS f", on=" AND ".join(same), join_type="left"),
        )

    # --- what is added up ---

    def _aggregated(self, seen: str) -> list[str]:
        """Tables with at most one row a question."""
        needs, steps = self._needs, self._steps
        simple = [f"{call} AS {name}" for name, call in needs.simple.items()]
        tables = []
        if simple:
            counted = chosen(*QUESTION, *simple).from_(seen).group_by(*QUESTION)
            tables.append(steps.add("counted", counted))
        if needs.amounts:
            digits = exact.totals(steps, self._cut(seen), needs.amounts)
            if needs.squares:
                digits = exact.spreads(steps, digits, needs.squares)
            values = exact.rounded(steps, digits, needs.squares)
            tables.append(self._by_question(values, needs.amounts))
        if needs.ranked:
            tables.append(self._ranked(seen))
        return tables

    def _by_question(self, source: str, slots: Iterable[int]) -> str:
        values = [f"MAX(CASE WHEN slot = {slot} THEN value END) AS sum_{slot}" for slot in slots]
        query = chosen(*QUESTION, *values).from_(source).group_by(*QUESTION)
        return self._steps.add("summed", query)

    def _cut(self, seen: str) -> str:
        """Adds the digits of what is summed, those of all columns in the same layers."""
        added = {(each.column, each.kind) for each in self._needs.amounts.values()}
        layers: list[list[str]] = [[], [], [], []]
        for number, column in enumerate(self._needs.columns):
            name = f"v{number}"
            if not {(name, "d"), (name, "s")} & added:
                continue
            cut = exact.digits_of_float if column.kind == "float64" else exact.digits_of_whole
            for layer, digits in zip(layers, cut(name), strict=False):
                layer += digits
            if (name, "s") in added:
                layers[-1] += exact.digits_of_square(name)
        wide = chosen("*").from_(seen)
        for layer in filter(None, layers):
            wide = chosen("*", *layer).from_(wide.subquery("wide"))
        return self._steps.add("cut", wide)

    def _ranked(self, seen: str) -> str:
        ranked, steps = self._needs.ranked, self._steps
        rows = [
            {
                "slot": f"{slot}",
                "holds": f"{each.inside} AND NOT {each.value} IS NULL",
                "value": f"CAST({each.value} AS DOUBLE)",
                "rank": each.order,
            }
            for slot, each in ranked.items()
        ]
        listed = steps.add("listed", chosen(*QUESTION, exploded(rows)).from_(seen))
        over = "PARTITION BY entity, as_of_us, each.slot"
        numbered = chosen(
            *QUESTION,
            "each.slot AS slot",
            "each.value AS value",
            f"ROW_NUMBER() OVER ({over} ORDER BY each.rank) AS nth",
            f"COUNT(*) OVER ({over}) AS held",
        )
        numbered = numbered.from_(listed).where("each.holds")
        picks = [f"{call} AS {name}" for name, call in self._needs.picks.items()]
        query = chosen(*QUESTION, *picks).from_(numbered.subquery("numbered"))
        return steps.add("ranked", query.group_by(*QUESTION))

    # --- what is answered ---

    def _answers(self) -> dict[str, str]:
        """By name of the features with a window, in float64, with ttl and default."""
        view, fresh = self._view, None
        if view.ttl_s is not None:
            fresh = self._needs.count(Window(view.ttl_s * SECOND_US))
        answers = {}
        for name, (feature, place) in features_by_name(view).items():
            if not isinstance(feature, WindowFeature):
                continue
            column = self._column(feature.column, feature.aggregate) if feature.column else None
            answer = self._needs.answer(feature, column, place)
            if fresh is not None:
                answer = f"CASE WHEN {fresh} > 0 THEN {answer} END"
            answers[name] = or_default(answer, feature.default)
        return answers

    def _joined(self, asked: str, tables: Sequence[str]) -> exp.Select:
        query = chosen().from_(f"{asked} AS q")
        for table in tables:
            on = " AND ".join(f"q.{column} = {table}.{column}" for column in QUESTION)
            query = query.join(table, on=on, join_type="left")
        return query

    def _finished(self, joined: exp.Select, answers: Mapping[str, str]) -> exp.Select:
        keys = [f"k{number}" for number in range(len(self._view.entity))]
        # By number: a feature may be named as one of our columns.
        place = {name: f"f{number}" for number, name in enumerate(answers)}
        for column in (*keys, "as_of_us"):
            joined = joined.select(f"q.{column} AS {column}")
        joined = joined.select(
            *(f"{answer} AS {place[name]}" for name, answer in answers.items()), dialect=WRITTEN_IN
        )
        answered = self._steps.add("answered", joined)
        columns: list[exp.Expr | str] = [
            exp.alias_(exp.column(key), name, quoted=True)
            for key, name in zip(keys, self._view.entity, strict=True)
        ]
        ratios: dict[str, tuple[str, str]] = {}
        for name, feature in self._view.features.items():
            if isinstance(feature, RatioFeature):
                above, below = (place[part] for part in feature.ratio)
                quotient = f"CASE WHEN {below} <> 0 THEN {above} / {below} END"
                ratios[name] = f"r{len(ratios)}", or_default(quotient, feature.default)
        divided = self._steps.add(
            "divided",
            chosen("*", *(f"{call} AS {column}" for column, call in ratios.values())).from_(
                answered
            ),
        )
        place |= {name: column for name, (column, _) in ratios.items()}
        names = features_by_name(self._view)
        features = [exp.alias_(parsed(float32(place[name])), name, quoted=True) for name in names]
        return chosen(*columns, AS_OF, *features).from_(divided)

    # --- columns and types ---

    def _found(self, name: str) -> Stream:
        if name not in self._streams:
            self._refuse(f"stream {name} is not known")
        return self._streams[name]

    def _type(self, column: str) -> str:
        if column not in self._types:
            self._refuse(f"stream {self._stream.name} has no column {column}")
        return self._types[column]

    def _kind(self, column: str) -> str:
        """The type of a column for features: of the stream, derived, or looked up."""
        if lookup := self._view.lookups.get(column):
            other = self._found(lookup.stream)
            if not other.columns.keys() >= {lookup.column, *lookup.key}:
                self._refuse(f"stream {other.name} does not have what {column} looks up")
            return other.columns[lookup.column].type
        if text := self._view.derive.get(column):
            return self._parsed(text).type
        return self._type(column)

    def _column(self, name: str, aggregate: str) -> Column:
        kind = self._kind(name)
        if kind == "string" and aggregate != "distinct":
            self._refuse(f"{aggregate} needs numbers, and {name} holds texts")
        source = name if name in self._view.lookups else self._view.derive.get(name, name)
        return Column(source, kind)

    def _source(self, column: Column) -> exp.Expr:
        if column.source in self._types:
            return number_of(named(column.source), column.kind)
        return number_of(spelled(self._parsed(column.source)), column.kind)

    def _filter(self) -> exp.Expr | None:
        return spelled(self._parsed(self._view.filter)) if self._view.filter else None

    def _parsed(self, text: str) -> Expression:
        return parse_expression(text, self._types)

    def _refuse(self, problem: str) -> NoReturn:
        raise Invalid("BAD_DEFINITION", view=self._view.name, problem=problem)

# SPDX-License-Identifier: Apache-2.0
"""What the features of a view need of what a question sees, each thing once.

A question is an entity and a moment. `v<n>` is a column's value, `in_<n>` whether a record lies in
a window, `place` its place among all records of the entity by (event time, id).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from headrace.feature_view import Q_UNITS, WindowFeature
from headrace.view_sql.edges import Window
from headrace.view_sql.exact import Amount

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Column:
    """`source`: its name in the stream, or the text of its expression, or the lookup's name."""

    source: str
    kind: str


@dataclass(frozen=True, slots=True)
class Ranked:
    """The values of a column in a window, in an order."""

    inside: str
    value: str
    order: str


@dataclass
class Needs:
    """`simple`: aggregates by alias; `amounts`, `ranked`: by slot, `picks`: by alias, of what is
    ranked; `squares`: for std, the slot of the squares by that of the sum.
    """

    windows: list[Window] = field(default_factory=list)
    columns: list[Column] = field(default_factory=list)
    simple: dict[str, str] = field(default_factory=dict)
    amounts: dict[int, Amount] = field(default_factory=dict)
    squares: dict[int, int] = field(default_factory=dict)
    ranked: dict[int, Ranked] = field(default_factory=dict)
    picks: dict[str, str] = field(default_factory=dict)

    def answer(self, feature: WindowFeature, column: Column | None, place: int) -> str:
        """The feature in float64, null where absent, over all that is aggregated."""
        window = Window.of(feature)
        if column is None:
            return self.count(window)
        return _ANSWERS[feature.aggregate](self, feature, column, window, place)

    def count(self, window: Window) -> str:
        inside = self.inside(window)
        name = self._simple(f"count_{inside}", f"COUNT(*) FILTER (WHERE {inside})")
        return f"CAST(COALESCE({name}, 0) AS DOUBLE)"

    def inside(self, window: Window) -> str:
        return f"in_{_number(self.windows, window)}"

    def value(self, column: Column) -> str:
        return f"v{_number(self.columns, column)}"

    def _simple(self, name: str, aggregate: str) -> str:
        self.simple.setdefault(name, aggregate)
        return name

    def _held(self, column: Column, window: Window) -> str:
        """How many values the window holds."""
        value, inside = self.value(column), self.inside(window)
        return self._simple(f"held_{value}_{inside}", f"COUNT({value}) FILTER (WHERE {inside})")

    def _extreme(self, feature: WindowFeature, column: Column, window: Window, _: int) -> str:
        value, inside = self.value(column), self.inside(window)
        name = f"{feature.aggregate}_{value}_{inside}"
        call = f"{feature.aggregate.upper()}({value}) FILTER (WHERE {inside})"
        return f"CAST({self._simple(name, call)} AS DOUBLE)"

    def _edge(self, feature: WindowFeature, column: Column, window: Window, _: int) -> str:
        value, inside = self.value(column), self.inside(window)
        call = {"first": "ARG_MIN", "last": "ARG_MAX"}[feature.aggregate]
        found = f"{call}({value}, place) FILTER (WHERE {inside} AND NOT {value} IS NULL)"
        name = self._simple(f"{feature.aggregate}_{value}_{inside}", found)
        return f"CAST({name} AS DOUBLE)"

    def _distinct(self, _: WindowFeature, column: Column, window: Window, __: int) -> str:
        value, inside = self.value(column), self.inside(window)
        name = self._simple(
            f"distinct_{value}_{inside}", f"COUNT(DISTINCT {value}) FILTER (WHERE {inside})"
        )
        return f"CAST(COALESCE({name}, 0) AS DOUBLE)"

    def _total(self, feature: WindowFeature, column: Column, window: Window, _: int) -> str:
        held = self._held(column, window)
        slot = self._amounts(column, window, "d")
        total = f"COALESCE(sum_{slot}, 0e0)"
        if feature.aggregate == "mean":
            total = f"{total} / CAST({held} AS DOUBLE)"
        return f"CASE WHEN {held} > 0 THEN {total} END"

    def _std(self, _: WindowFeature, column: Column, window: Window, __: int) -> str:
        held = self._held(column, window)
        squares = self._amounts(column, window, "s")
        self.squares[self._amounts(column, window, "d")] = squares
        return f"CASE WHEN {held} > 1 THEN COALESCE(sum_{squares}, 0e0) END"

    def _last_n(self, _: WindowFeature, column: Column, window: Window, place: int) -> str:
        slot = self._ranked(column, window, "-CAST(place AS DOUBLE)")
        return self._pick(f"last_{slot}_{place}", slot, f"{place + 1}")

    def _quantile(self, feature: WindowFeature, column: Column, window: Window, _: int) -> str:
        share = round((feature.q or 0) * Q_UNITS)
        slot = self._ranked(column, window, f"CAST({self.value(column)} AS DOUBLE)")
        rank = f"(CAST(held AS BIGINT) * {share} + {Q_UNITS - 1}) // {Q_UNITS}"
        return self._pick(f"quantile_{slot}_{share}", slot, rank)

    def _amounts(self, column: Column, window: Window, kind: Literal["d", "s"]) -> int:
        return _slot(self.amounts, Amount(self.inside(window), self.value(column), kind))

    def _ranked(self, column: Column, window: Window, order: str) -> int:
        return _slot(self.ranked, Ranked(self.inside(window), self.value(column), order))

    def _pick(self, name: str, slot: int, rank: str) -> str:
        self.picks[name] = f"MAX(CASE WHEN slot = {slot} AND nth = {rank} THEN value END)"
        return name


Answer = Callable[[Needs, WindowFeature, Column, Window, int], str]
_ANSWERS: dict[str, Answer] = {
    "sum": Needs._total,
    "mean": Needs._total,
    "std": Needs._std,
    "min": Needs._extreme,
    "max": Needs._extreme,
    "first": Needs._edge,
    "last": Needs._edge,
    "last_n": Needs._last_n,
    "distinct": Needs._distinct,
    "quantile": Needs._quantile,
}


def _number(known: list[T], one: T) -> int:
    if one not in known:
        known.append(one)
    return known.index(one)


def _slot(known: dict[int, T], one: T) -> int:
    for slot, other in known.items():
        if other == one:
            return slot
    known[len(known)] = one
    return len(known) - 1

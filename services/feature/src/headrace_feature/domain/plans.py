# SPDX-License-Identifier: Apache-2.0
"""Who answers which feature of a request: windows over layouts, the request itself, and rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import count
from typing import TypeVar

from headrace.feature_view import (
    ExpressionFeature,
    RatioFeature,
    RequestFeature,
    StreamView,
    WindowFeature,
)
from headrace_feature.domain.edges import Window
from headrace_feature.domain.rules import Computed, Default, Later, Ratio, Rule, Stale
from headrace_feature.domain.views import Catalogue, Kind, Layout, LookedUp, counted

PLANS_MAX = 64
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """One value of a feature: `place` tells those of last_n apart, `slot` is where it goes.

    `column`: the place of the feature's column in the layout, -1 for none.
    """

    slot: int
    feature: WindowFeature
    column: int
    place: int


@dataclass(frozen=True, eq=False)
class WindowPart:
    """What a request asks of one view's windows."""

    layout: Layout
    asked: tuple[Asked, ...]
    lookups: tuple[LookedUp, ...] = ()

    def kind(self, column: int) -> Kind:
        """Of a column of the layout, or of one that is looked up."""
        if column < len(self.layout.kinds):
            return self.layout.kinds[column]
        return next(each.layout.kinds[0] for each in self.lookups if each.place == column)

    @property
    def layouts(self) -> list[Layout]:
        """Its own and those of what it looks up."""
        return [self.layout, *(each.layout for each in self.lookups)]

    def key_of(self, looked_up: LookedUp) -> tuple[str, ...]:
        """Our columns, in the order of its layout's entity."""
        return self.layout.keys[(looked_up.key - len(self.layout.columns)) // 2]

    @cached_property
    def slots(self) -> list[int]:
        return [each.slot for each in self.asked]

    @cached_property
    def longest_us(self) -> int:
        return max(Window.of(each.feature).reach_us for each in self.asked)


@dataclass(frozen=True, slots=True)
class RequestPart:
    """The features that are computed from the request itself."""

    slots: tuple[int, ...]
    features: tuple[RequestFeature, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Who answers which feature of a request.

    `width` values are asked for; `slots`, as many or more, are filled on the way: the others are
    what `rules` make answers of.
    """

    windows: tuple[WindowPart, ...]
    request: RequestPart
    rules: tuple[Rule, ...]
    width: int
    slots: int


@lru_cache(maxsize=PLANS_MAX)
def plan_of(catalogue: Catalogue, features: tuple[str, ...]) -> Plan:
    """Raises NotFound FEATURE_UNKNOWN for a name that no applied view has."""
    draft = _Draft(catalogue)
    for slot, name in enumerate(features):
        draft.ask(slot, name)
    return draft.plan(len(features))


@lru_cache(maxsize=PLANS_MAX)
def newest_of(plan: Plan) -> Plan:
    """The plan whose values are, in the place of each, when its newest observation happened.

    What the request itself says, and what a default fills in, rests on none.
    """
    counted = {rule.counted for rule in plan.rules if isinstance(rule, Stale)}
    rules: list[Rule] = [rule for rule in plan.rules if isinstance(rule, Stale)]
    rules += [Later(r.slot, r.above, r.below) for r in plan.rules if isinstance(r, Ratio)]
    rules += [later for r in plan.rules if isinstance(r, Computed) for later in _latest(r)]
    windows = (
        replace(part, asked=tuple(a if a.slot in counted else _newest(a) for a in part.asked))
        for part in plan.windows
    )
    return replace(plan, windows=tuple(windows), request=RequestPart((), ()), rules=tuple(rules))


def _latest(rule: Computed) -> Iterator[Later]:
    """The latest of the features that an expression reads."""
    first, *others = [slot for name, slot in rule.sources if ":" in name] or [rule.slot]
    yield Later(rule.slot, first, first)
    yield from (Later(rule.slot, rule.slot, other) for other in others)


def _newest(asked: Asked) -> Asked:
    """Known here alone: no view may say it."""
    aggregate = "newest_record" if asked.column < 0 else "newest"
    feature = asked.feature.model_copy(update={"aggregate": aggregate, "q": None})
    return replace(asked, feature=feature)


class _Draft:
    """A plan while it is made; what rules need beside what is asked gets slots behind."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._windows: dict[str, list[Asked]] = {}
        self._request: list[tuple[int, RequestFeature]] = []
        self._ratios: list[tuple[int, str, RatioFeature]] = []
        self._expressions: list[tuple[int, ExpressionFeature]] = []

    def ask(self, slot: int, name: str) -> None:
        view, feature, place = self._catalogue.answered(name)
        if isinstance(feature, RequestFeature):
            self._request.append((slot, feature))
        elif isinstance(feature, ExpressionFeature):
            self._expressions.append((slot, feature))
        elif isinstance(feature, RatioFeature):
            self._ratios.append((slot, view, feature))
        else:
            column = self._catalogue.column(view, feature)
            self._windows.setdefault(view, []).append(Asked(slot, feature, column, place))

    def plan(self, width: int) -> Plan:
        slots = count(width)
        computed = [self._computed(slot, feature, slots) for slot, feature in self._expressions]
        parts = [(slot, f, self._parts(view, f, slots)) for slot, view, f in self._ratios]
        stale = [self._stale(view, slots) for view in list(self._windows)]
        asked = [each for of_view in self._windows.values() for each in of_view]
        rules: list[Rule] = [rule for rule in stale if rule is not None]
        rules += [_default(each.slot, each.feature) for each in asked if _has_default(each.feature)]
        rules += [Ratio(slot, *two) for slot, _, two in parts]
        rules += [_default(slot, feature) for slot, feature, _ in parts if _has_default(feature)]
        rules += computed
        rules += [_default(slot, f) for slot, f in self._expressions if _has_default(f)]
        return Plan(
            windows=tuple(
                self._part(view, tuple(of_view)) for view, of_view in self._windows.items()
            ),
            request=RequestPart(*_columns(self._request)),
            rules=tuple(rules),
            width=width,
            slots=next(slots),
        )

    def _part(self, view: str, asked: tuple[Asked, ...]) -> WindowPart:
        places = {each.column for each in asked}
        lookups = self._catalogue.lookups_by_view[view]
        needed = tuple(each for each in lookups if each.place in places)
        return WindowPart(self._catalogue.layout_by_view[view], asked, needed)

    def _parts(self, view: str, feature: RatioFeature, slots: Iterator[int]) -> tuple[int, int]:
        """Slots of the two that a ratio divides."""
        above, below = next(slots), next(slots)
        self.ask(above, f"{view}:{feature.ratio[0]}")
        self.ask(below, f"{view}:{feature.ratio[1]}")
        return above, below

    def _computed(self, slot: int, feature: ExpressionFeature, slots: Iterator[int]) -> Computed:
        """What the expression reads gets slots: columns of the request, and features."""
        expression = feature.parsed()
        sources = {name: next(slots) for name in sorted(expression.columns)}
        for name, source in sources.items():
            if ":" in name:
                self.ask(source, name)
            else:
                value = RequestFeature(transform="value", column=name)
                self._request.append((source, value))
        return Computed(slot, expression, tuple(sources.items()))

    def _stale(self, name: str, slots: Iterator[int]) -> Rule | None:
        """The records of the view within its ttl are counted: none of them, no features."""
        view = self._catalogue.views[name]
        if not isinstance(view, StreamView) or view.ttl_s is None:
            return None
        concerned = tuple(each.slot for each in self._windows[name])
        fresh = Asked(next(slots), counted(view.ttl_s), -1, 0)
        self._windows[name].append(fresh)
        return Stale(concerned, fresh.slot)


def _has_default(feature: WindowFeature | RatioFeature | ExpressionFeature) -> bool:
    return feature.default is not None


def _default(slot: int, feature: WindowFeature | RatioFeature | ExpressionFeature) -> Default:
    return Default(slot, feature.default or 0.0)


def _columns(pairs: Sequence[tuple[int, T]]) -> tuple[tuple[int, ...], tuple[T, ...]]:
    return tuple(slot for slot, _ in pairs), tuple(feature for _, feature in pairs)

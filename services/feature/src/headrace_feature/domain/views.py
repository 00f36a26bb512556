# SPDX-License-Identifier: Apache-2.0
"""Which views apply now, how their observations are laid out, and which of them answer a request.

A layout is named by what it holds (stream, entity, columns, span), not by the view: a changed view
with the same needs keeps its observations, one with other needs gets new ones, filled from the
stream's beginning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import count
from typing import Literal, TypeVar

import numpy as np

from headrace.application import Definition, Recipe, Stream
from headrace.errors import Invalid, NotFound
from headrace.expression import Expression, parse_expression
from headrace.feature_view import (
    ExpressionFeature,
    Feature,
    Lookup,
    RatioFeature,
    RequestFeature,
    RequestView,
    StreamView,
    WindowFeature,
    features_by_name,
)
from headrace_feature.domain.edges import Window
from headrace_feature.domain.rules import Computed, Default, Later, Ratio, Rule, Stale

DAY_US = 86_400_000_000
PLANS_MAX = 64
T = TypeVar("T")
# A text is kept as 64 bits of its hash: it has no arithmetic, different ones can be counted.
Kind = Literal["int64", "float64", "text"]
DTYPE_BY_KIND = {"int64": np.int64, "float64": np.float64, "text": np.int64}
KIND_BY_TYPE: Mapping[str, Kind] = {
    "string": "text",
    "int64": "int64",
    "timestamp": "int64",
    "bool": "int64",
    "float64": "float64",
}


@dataclass(frozen=True, slots=True)
class Layout:
    """What is held for a view: for each record of the stream its times and these columns.

    `id`: 8 bytes. `columns`: by name, or by the text of the expression that makes them, which
    `expressions` hold. `span_us`: the longest window, behind which no past read looks. `filter`:
    which records count. `keys`: columns that name an entity of another stream; behind the columns,
    each has two places for the halves of its digest.
    """

    id: bytes
    stream: str
    entity: tuple[str, ...]
    columns: tuple[str, ...]
    kinds: tuple[Kind, ...]
    span_us: int
    expressions: tuple[Expression, ...] = ()
    filter: Expression | None = None
    keys: tuple[tuple[str, ...], ...] = ()

    @property
    def width(self) -> int:
        """Places of a row behind what every row has."""
        return len(self.columns) + 2 * len(self.keys)

    @property
    def stream_columns(self) -> frozenset[str]:
        """What is read of a record."""
        made = {each.text for each in self.expressions}
        read = [each.columns for each in self.expressions]
        read += [self.filter.columns] if self.filter is not None else []
        return frozenset({*self.entity, *(set(self.columns) - made)}).union(*read, *self.keys)


@dataclass(frozen=True, slots=True)
class LookedUp:
    """A column that is looked up when it is read: the latest value in another stream's layout.

    `key`: where the digest of its key stands in the view's rows; `place`: where its value goes,
    behind all that is stored.
    """

    name: str
    layout: Layout
    key: int
    place: int
    max_age_us: int


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


@dataclass(frozen=True, slots=True, eq=False)
class Catalogue:
    """The applied definitions that this service needs, as one value that is swapped whole."""

    streams: Mapping[str, Stream] = field(default_factory=dict)
    views: Mapping[str, StreamView | RequestView] = field(default_factory=dict)
    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    layout_by_view: Mapping[str, Layout] = field(default_factory=dict)
    lookups_by_view: Mapping[str, tuple[LookedUp, ...]] = field(default_factory=dict)

    def with_definition(self, definition: Definition) -> Catalogue:
        """Names are unique per kind: the newest replaces."""
        if isinstance(definition, Stream):
            streams = {**self.streams, definition.name: definition}
            return _laid_out(replace(self, streams=streams))
        if isinstance(definition, StreamView | RequestView):
            return _laid_out(replace(self, views={**self.views, definition.name: definition}))
        if isinstance(definition, Recipe):
            return replace(self, recipes={**self.recipes, definition.name: definition})
        return self

    def without(self, kind: str, name: str) -> Catalogue:
        """The same without a definition that was taken back."""
        return _laid_out(
            Catalogue(
                streams=_left(self.streams, name if kind == "stream" else None),
                views=_left(self.views, name if kind == "view" else None),
                recipes=_left(self.recipes, name if kind == "recipe" else None),
            )
        )

    def layouts(self) -> dict[bytes, Layout]:
        """By id; views with equal needs share one."""
        looked_up = [each.layout for found in self.lookups_by_view.values() for each in found]
        return {layout.id: layout for layout in (*self.layout_by_view.values(), *looked_up)}

    def layouts_of(self, stream: str) -> list[Layout]:
        return [layout for layout in self.layouts().values() if layout.stream == stream]

    def answered(self, name: str) -> tuple[str, Feature, int]:
        """The view, the feature and the place of a full name.

        Raises NotFound FEATURE_UNKNOWN for a name that no applied view has.
        """
        view_name, _, feature_name = name.partition(":")
        view = self.views.get(view_name)
        if isinstance(view, RequestView) or (view and view_name in self.layout_by_view):
            found = features_by_name(view).get(feature_name)
            if found is not None:
                return view_name, *found
        raise NotFound("FEATURE_UNKNOWN", feature=name)

    def column(self, view_name: str, feature: WindowFeature) -> int:
        """Where the layout has the feature's column, -1 for none."""
        view, layout = self.views[view_name], self.layout_by_view[view_name]
        if feature.column is None or not isinstance(view, StreamView):
            return -1
        for looked_up in self.lookups_by_view[view_name]:
            if looked_up.name == feature.column:
                return looked_up.place
        return layout.columns.index(_source(view, feature.column))


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
        fresh = Asked(next(slots), _counted(view.ttl_s), -1, 0)
        self._windows[name].append(fresh)
        return Stale(concerned, fresh.slot)


def _counted(window_s: int) -> WindowFeature:
    return WindowFeature(aggregate="count", window=f"{window_s}s")


def _has_default(feature: WindowFeature | RatioFeature | ExpressionFeature) -> bool:
    return feature.default is not None


def _default(slot: int, feature: WindowFeature | RatioFeature | ExpressionFeature) -> Default:
    return Default(slot, feature.default or 0.0)


def layout_of(view: StreamView, stream: Stream) -> Layout | None:
    """None while the contract does not fit the view: a column is missing, or cannot do this."""
    types = {name: column.type for name, column in stream.columns.items()}
    features = view.window_features().values()
    looking = [f for f in features if f.column is not None and f.column not in view.lookups]
    wanted = sorted({_source(view, each.column or "") for each in looking})
    try:
        expressions = [parse_expression(text, types) for text in wanted if text not in types]
        counts = parse_expression(view.filter, types) if view.filter is not None else None
    except Invalid:
        return None
    types |= {each.text: each.type for each in expressions}
    numbers = [_source(view, f.column or "") for f in looking if f.aggregate != "distinct"]
    keys = tuple(sorted({_key(each) for each in view.lookups.values()}))
    if "string" in map(types.get, numbers) or not types.keys() >= {*view.entity}.union(*keys):
        return None
    kinds = tuple(KIND_BY_TYPE[types[text]] for text in wanted)
    span_us = max(Window.of(each).reach_us for each in _looking(view))
    needs = [stream.name, view.entity, wanted, kinds, span_us]
    needs += [counts.text] if counts is not None else []
    return Layout(
        id=_id([*needs, keys] if keys else needs),
        stream=stream.name,
        entity=view.entity,
        columns=tuple(wanted),
        kinds=kinds,
        span_us=span_us,
        expressions=tuple(expressions),
        filter=counts,
        keys=keys,
    )


def _id(needs: Sequence[object]) -> bytes:
    return hashlib.blake2b(json.dumps(needs).encode(), digest_size=8).digest()


def _key(lookup: Lookup) -> tuple[str, ...]:
    """Our columns, in the order of theirs."""
    return tuple(ours for _, ours in sorted(lookup.key.items()))


def looked_up_of(
    view: StreamView, layout: Layout, streams: Mapping[str, Stream]
) -> tuple[LookedUp, ...] | None:
    """None while the other streams do not fit."""
    found = []
    for number, (name, lookup) in enumerate(sorted(view.lookups.items())):
        stream, max_age_us = streams.get(lookup.stream), lookup.max_age_s * 1_000_000
        if stream is None or not stream.columns.keys() >= {lookup.column, *lookup.key}:
            return None
        entity, kind = tuple(sorted(lookup.key)), KIND_BY_TYPE[stream.columns[lookup.column].type]
        span_us = layout.span_us + max_age_us
        needs = [stream.name, entity, [lookup.column], [kind], span_us]
        other = Layout(_id(needs), stream.name, entity, (lookup.column,), (kind,), span_us)
        key = len(layout.columns) + 2 * layout.keys.index(_key(lookup))
        found.append(LookedUp(name, other, key, layout.width + number, max_age_us))
    return tuple(found)


def _source(view: StreamView, column: str) -> str:
    """The text of the expression that makes a column, which for one of the stream is its name."""
    return view.derive.get(column, column)


def _looking(view: StreamView) -> Iterator[WindowFeature]:
    """What looks at records: the features with a window, and the ttl."""
    yield from view.window_features().values()
    if view.ttl_s is not None:
        yield _counted(view.ttl_s)


def _laid_out(catalogue: Catalogue) -> Catalogue:
    layouts, lookups = dict[str, Layout](), dict[str, tuple[LookedUp, ...]]()
    for view in catalogue.views.values():
        stream = catalogue.streams.get(view.stream) if isinstance(view, StreamView) else None
        layout = layout_of(view, stream) if isinstance(view, StreamView) and stream else None
        if not isinstance(view, StreamView) or layout is None:
            continue
        found = looked_up_of(view, layout, catalogue.streams)
        if found is not None:
            layouts[view.name], lookups[view.name] = layout, found
    return replace(catalogue, layout_by_view=layouts, lookups_by_view=lookups)


def _columns(pairs: Sequence[tuple[int, T]]) -> tuple[tuple[int, ...], tuple[T, ...]]:
    return tuple(slot for slot, _ in pairs), tuple(feature for _, feature in pairs)


def _left(named: Mapping[str, T], name: str | None) -> Mapping[str, T]:
    return {other: each for other, each in named.items() if other != name}

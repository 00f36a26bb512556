# SPDX-License-Identifier: Apache-2.0
"""Which views apply now, and how their observations are laid out.

A layout is named by what it holds (stream, entity, columns, span), not by the view: a changed view
with the same needs keeps its observations, one with other needs gets new ones, filled from the
stream's beginning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from headrace.application import Definition, Recipe, Stream
from headrace.errors import Invalid, NotFound
from headrace.expression import Expression, parse_expression
from headrace.feature_view import (
    LIFETIME_S,
    Feature,
    Lookup,
    RequestView,
    StreamView,
    WindowFeature,
    features_by_name,
)
from headrace.label_definition import LabelDefinition
from headrace_feature.domain.edges import Window

DAY_US = 86_400_000_000
LAYOUT_ID_BYTES = 8
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


class WeakColumns(NamedTuple):
    """Whom a weak label is about, what says that it is one, and the votes for it."""

    key: str
    origin: str
    votes: str


@dataclass(frozen=True, slots=True, eq=False)
class Catalogue:
    """The applied definitions that this service needs, as one value that is swapped whole."""

    streams: Mapping[str, Stream] = field(default_factory=dict)
    views: Mapping[str, StreamView | RequestView] = field(default_factory=dict)
    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    labels: Mapping[str, LabelDefinition] = field(default_factory=dict)
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
        if isinstance(definition, LabelDefinition):
            return replace(self, labels={**self.labels, definition.name: definition})
        return self

    def without(self, kind: str, name: str) -> Catalogue:
        """The same without a definition that was taken back."""
        return _laid_out(
            Catalogue(
                streams=_left(self.streams, name if kind == "stream" else None),
                views=_left(self.views, name if kind == "view" else None),
                recipes=_left(self.recipes, name if kind == "recipe" else None),
                labels=_left(self.labels, name if kind == "label" else None),
            )
        )

    def layouts(self) -> dict[bytes, Layout]:
        """By id; views with equal needs share one."""
        looked_up = [each.layout for found in self.lookups_by_view.values() for each in found]
        return {layout.id: layout for layout in (*self.layout_by_view.values(), *looked_up)}

    def weak_labels_of(self, stream: str) -> frozenset[WeakColumns]:
        """Where functions say what they voted for, in records of the stream."""
        return frozenset(
            WeakColumns(each.key, each.origin, each.weak.votes)
            for each in self.labels.values()
            if each.stream == stream and each.weak is not None and each.origin is not None
        )

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


def counted(window_s: int) -> WindowFeature:
    """How many records of the view there are in a window; a longer one than any sees as much."""
    return WindowFeature(aggregate="count", window=f"{min(window_s, LIFETIME_S)}s")


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
    return hashlib.blake2b(json.dumps(needs).encode(), digest_size=LAYOUT_ID_BYTES).digest()


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
        yield counted(view.ttl_s)


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


def _left(named: Mapping[str, T], name: str | None) -> Mapping[str, T]:
    return {other: each for other, each in named.items() if other != name}

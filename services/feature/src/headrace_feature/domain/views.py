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
from functools import lru_cache
from typing import Literal, TypeVar

from headrace.application import Definition, Recipe, Stream
from headrace.errors import NotFound
from headrace.feature_view import (
    RatioFeature,
    RequestFeature,
    RequestView,
    StreamView,
    WindowFeature,
)

DAY_US = 86_400_000_000
PLANS_MAX = 64
T = TypeVar("T")
Kind = Literal["int64", "float64"]
# Values of a string column have no arithmetic: a feature on one is unknown.
KIND_BY_TYPE: Mapping[str, Kind] = {
    "int64": "int64",
    "timestamp": "int64",
    "bool": "int64",
    "float64": "float64",
}


@dataclass(frozen=True, slots=True)
class Layout:
    """What is held for a view: for each record of the stream its times and these columns.

    `id`: 8 bytes. `span_us`: the longest window, behind which no past read looks.
    """

    id: bytes
    stream: str
    entity: tuple[str, ...]
    columns: tuple[str, ...]
    kinds: tuple[Kind, ...]
    span_us: int


@dataclass(frozen=True, slots=True, eq=False)
class WindowPart:
    """The features of one view that a request asks for; `slots` are their places in the answer."""

    layout: Layout
    slots: tuple[int, ...]
    features: tuple[WindowFeature, ...]

    @property
    def longest_us(self) -> int:
        return 1_000_000 * max(feature.window_s for feature in self.features)


@dataclass(frozen=True, slots=True)
class RequestPart:
    """The features that are computed from the request itself."""

    slots: tuple[int, ...]
    features: tuple[RequestFeature, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Who answers which feature of a request."""

    windows: tuple[WindowPart, ...]
    request: RequestPart
    width: int


@dataclass(frozen=True, slots=True, eq=False)
class Catalogue:
    """The applied definitions that this service needs, as one value that is swapped whole."""

    streams: Mapping[str, Stream] = field(default_factory=dict)
    views: Mapping[str, StreamView | RequestView] = field(default_factory=dict)
    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    layout_by_view: Mapping[str, Layout] = field(default_factory=dict)

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
        return {layout.id: layout for layout in self.layout_by_view.values()}

    def layouts_of(self, stream: str) -> list[Layout]:
        return [layout for layout in self.layouts().values() if layout.stream == stream]

    def feature(self, view_name: str, feature_name: str) -> WindowFeature | RequestFeature:
        """Raises NotFound FEATURE_UNKNOWN for a name that no applied view has."""
        view = self.views.get(view_name)
        known = view is not None and (
            isinstance(view, RequestView) or view_name in self.layout_by_view
        )
        feature = view.features.get(feature_name) if view is not None and known else None
        if feature is None or isinstance(feature, RatioFeature):
            raise NotFound("FEATURE_UNKNOWN", feature=f"{view_name}:{feature_name}")
        return feature


@lru_cache(maxsize=PLANS_MAX)
def plan_of(catalogue: Catalogue, features: tuple[str, ...]) -> Plan:
    """Raises NotFound FEATURE_UNKNOWN for a name that no applied view has."""
    windows: dict[str, list[tuple[int, WindowFeature]]] = {}
    request: list[tuple[int, RequestFeature]] = []
    for slot, name in enumerate(features):
        view_name, _, feature_name = name.partition(":")
        feature = catalogue.feature(view_name, feature_name)
        if isinstance(feature, RequestFeature):
            request.append((slot, feature))
        else:
            windows.setdefault(view_name, []).append((slot, feature))
    return Plan(
        windows=tuple(
            WindowPart(catalogue.layout_by_view[view], *_columns(wanted))
            for view, wanted in windows.items()
        ),
        request=RequestPart(*_columns(request)),
        width=len(features),
    )


def layout_of(view: StreamView, stream: Stream) -> Layout | None:
    """None while the contract lacks a column of the view, or has no numbers in it."""
    wanted = sorted({f.column for f in view.window_features().values() if f.column is not None})
    present = {*wanted, *view.entity} <= stream.columns.keys()
    kinds = tuple(_kinds(stream, wanted)) if present else ()
    if not present or len(kinds) != len(wanted):
        return None
    span_us = 1_000_000 * max(feature.window_s for feature in view.window_features().values())
    needs = json.dumps([stream.name, view.entity, wanted, kinds, span_us]).encode()
    return Layout(
        id=hashlib.blake2b(needs, digest_size=8).digest(),
        stream=stream.name,
        entity=view.entity,
        columns=tuple(wanted),
        kinds=kinds,
        span_us=span_us,
    )


def _kinds(stream: Stream, columns: Sequence[str]) -> Iterator[Kind]:
    for column in columns:
        kind = KIND_BY_TYPE.get(stream.columns[column].type)
        if kind is not None:
            yield kind


def _laid_out(catalogue: Catalogue) -> Catalogue:
    layout_by_view = {}
    for view in catalogue.views.values():
        stream = catalogue.streams.get(view.stream) if isinstance(view, StreamView) else None
        layout = layout_of(view, stream) if isinstance(view, StreamView) and stream else None
        if layout is not None:
            layout_by_view[view.name] = layout
    return replace(catalogue, layout_by_view=layout_by_view)


def _columns(pairs: Sequence[tuple[int, T]]) -> tuple[tuple[int, ...], tuple[T, ...]]:
    return tuple(slot for slot, _ in pairs), tuple(feature for _, feature in pairs)


def _left(named: Mapping[str, T], name: str | None) -> Mapping[str, T]:
    return {other: each for other, each in named.items() if other != name}

# SPDX-License-Identifier: Apache-2.0
"""RecipeBook from `registry.definitions`: the newest recipes, views and monitors, in memory."""

from __future__ import annotations

from collections.abc import Mapping

from headrace.application import Monitor, Recipe, RequestView, View, parse_definition_json
from headrace.errors import NotFound
from headrace.registry.v1.registry_events_pb2 import Definition
from headrace_kit.kafka import Record


class DefinitionBook:
    """Fed by the follower's thread; a dict assignment is atomic, readers need no lock."""

    def __init__(self) -> None:
        self._recipes: dict[str, Recipe] = {}
        self._views: dict[str, View] = {}
        self._window_s_by_monitor: dict[tuple[str, str], int] = {}  # by (recipe, monitor)

    def follow(self, record: Record) -> None:
        definition = Definition.FromString(record.value or b"")
        if definition.kind == "recipe":
            recipe = parse_definition_json(definition.spec_json)
            assert isinstance(recipe, Recipe)  # noqa: S101 (kind says so)
            self._recipes[recipe.name] = recipe
        elif definition.kind == "view":
            view = parse_definition_json(definition.spec_json)
            assert isinstance(view, View)  # noqa: S101 (kind says so)
            self._views[view.name] = view
        elif definition.kind == "monitor":
            monitor = parse_definition_json(definition.spec_json)
            assert isinstance(monitor, Monitor)  # noqa: S101 (kind says so)
            self._window_s_by_monitor[monitor.recipe, monitor.name] = monitor.window_s

    def recipe(self, name: str) -> Recipe:
        try:
            return self._recipes[name]
        except KeyError:
            raise NotFound("DEFINITION_UNKNOWN", recipe=name) from None

    def window_s(self, recipe: Recipe) -> int | None:
        watched = dict(self._window_s_by_monitor)
        return min((s for (name, _), s in watched.items() if name == recipe.name), default=None)

    def category_sizes(self, recipe: Recipe) -> Mapping[str, int]:
        sizes = {}
        for name in recipe.features:
            view_name, _, feature_name = name.partition(":")
            view = self._views.get(view_name)
            if view is None:
                raise NotFound("FEATURE_UNKNOWN", feature=name)
            if isinstance(view, RequestView):
                categories = view.features[feature_name].categories
                if categories is not None:
                    sizes[name] = len(categories)
        return sizes

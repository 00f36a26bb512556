# SPDX-License-Identifier: Apache-2.0
"""RecipeBook from `registry.definitions`: the newest definitions, in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Condition

from headrace.application import Definition, Monitor, Recipe
from headrace.applied import read_applied
from headrace.errors import NotFound
from headrace.feature_view import RequestFeature, RequestView
from headrace.graph_definition import Graph
from headrace_kit.kafka import Record


class DefinitionBook:
    """Fed by the follower's thread; the table is replaced whole, so only who waits needs a lock."""

    def __init__(self) -> None:
        self._definitions: dict[tuple[str, str], Definition] = {}  # by kind and name
        self._changed = Condition()

    def follow(self, record: Record) -> None:
        """Raises Invalid for what cannot be read; the follower skips it."""
        applied = read_applied(record.key, record.value)
        definitions = {**self._definitions}
        if applied.definition is None:
            definitions.pop((applied.kind, applied.name), None)
        else:
            definitions[applied.kind, applied.name] = applied.definition
        with self._changed:
            self._definitions = definitions
            self._changed.notify_all()

    def trainee(self, name: str, *, wait_s: float = 0.0) -> Recipe | Graph:
        with self._changed:
            found = self._changed.wait_for(lambda: self._trainee(name), wait_s)
        return found or self.recipe(name)

    def _trainee(self, name: str) -> Recipe | Graph | None:
        definitions = self._definitions
        found = definitions.get(("graph", name)) or definitions.get(("recipe", name))
        return found if isinstance(found, Recipe | Graph) else None

    def recipe(self, name: str) -> Recipe:
        recipe = self._definitions.get(("recipe", name))
        if not isinstance(recipe, Recipe):
            raise NotFound("DEFINITION_UNKNOWN", recipe=name)
        return recipe

    def graphs(self) -> Sequence[Graph]:
        return [each for each in self._definitions.values() if isinstance(each, Graph)]

    def window_s(self, recipe: Recipe) -> int | None:
        monitors = (each for each in self._definitions.values() if isinstance(each, Monitor))
        windows_s = (each.window_s for each in monitors if each.recipe == recipe.name)
        return min(windows_s, default=None)

    def category_sizes(self, recipe: Recipe) -> Mapping[str, int]:
        definitions, sizes = self._definitions, {}
        for name in recipe.features:
            view_name, _, feature_name = name.partition(":")
            view = definitions.get(("view", view_name))
            if view is None:
                raise NotFound("FEATURE_UNKNOWN", feature=name)
            if isinstance(view, RequestView):
                feature = view.features[feature_name]
                if isinstance(feature, RequestFeature) and feature.categories is not None:
                    sizes[name] = len(feature.categories)
        return sizes

# SPDX-License-Identifier: Apache-2.0
"""What a monitor watches, put together from the applied definitions.

Definitions arrive one by one and in any order; a monitor is watched from the moment that all it
names is known. Beside its own endpoint it compares every endpoint that is asked by the same key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.application import Definition, Endpoint, Monitor, Recipe

SECOND_US = 1_000_000
DefinitionsByName = Mapping[tuple[str, str], Definition]


@dataclass(frozen=True, slots=True)
class Watch:
    """A monitor with what it names."""

    monitor: Monitor
    endpoint: Endpoint
    recipe: Recipe
    # Its own endpoint and those that it is compared with.
    endpoints: frozenset[str]

    @property
    def name(self) -> str:
        return self.monitor.name

    @property
    def window_us(self) -> int:
        return self.monitor.window_s * SECOND_US

    @property
    def streams(self) -> frozenset[str]:
        """Their watermarks say what is known: the spine's and the label's stream."""
        return frozenset((self.recipe.spine.stream, self.recipe.label.stream))

    @property
    def maturity_us(self) -> int:
        """From a prediction's `as_of` to the moment when a label that did not come will not."""
        return (self.recipe.label.absent_after_s - self.recipe.spine.offset_s) * SECOND_US

    def window_end_us(self, as_of_us: int) -> int:
        """Windows hold as_of in [end - window, end); ends are whole windows since the epoch."""
        return (as_of_us // self.window_us + 1) * self.window_us

    def outcome_of(self, label: Mapping[str, object]) -> int | None:
        """1 or 0 from a label record; None when its column is null."""
        value = label.get(self.recipe.label.column)
        if not isinstance(value, (int, float)):
            return None
        return int(value > self.recipe.label.above)


def watches(definitions: DefinitionsByName) -> dict[str, Watch]:
    """By monitor; a monitor whose endpoint or recipe is not known yet is left out."""
    endpoints = [each for each in definitions.values() if isinstance(each, Endpoint)]
    found = {}
    for monitor in definitions.values():
        if not isinstance(monitor, Monitor):
            continue
        endpoint = definitions.get(("endpoint", monitor.endpoint))
        recipe = definitions.get(("recipe", monitor.recipe))
        if isinstance(endpoint, Endpoint) and isinstance(recipe, Recipe):
            same_key = (one.name for one in endpoints if one.entity_key == endpoint.entity_key)
            found[monitor.name] = Watch(monitor, endpoint, recipe, frozenset(same_key))
    return found

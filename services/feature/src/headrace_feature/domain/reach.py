# SPDX-License-Identifier: Apache-2.0
"""Which windows a question looks into, by view: what a record must lie in to belong to its answer.

A ttl and what is looked up in another stream are left out: whether a record changes an answer by
these is not to be seen from the record and the moment alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from headrace.feature_view import ExpressionFeature, RatioFeature, WindowFeature
from headrace_feature.domain.edges import Window
from headrace_feature.domain.plans import PLANS_MAX
from headrace_feature.domain.views import Catalogue


@dataclass(frozen=True, slots=True)
class Reach:
    """The features of one view that are asked for, by their full names, and a window of each.

    A feature that is made of others stands there once for each of theirs. `entity`: the view's
    columns.
    """

    layout_id: bytes
    view: str
    entity: tuple[str, ...]
    windows: tuple[tuple[str, Window], ...]

    @property
    def longest_us(self) -> int:
        return max(window.reach_us for _, window in self.windows)


@lru_cache(maxsize=PLANS_MAX)
def reaches_of(catalogue: Catalogue, features: tuple[str, ...]) -> tuple[Reach, ...]:
    """Raises NotFound FEATURE_UNKNOWN for a name that no applied view has."""
    found: dict[str, list[tuple[str, Window]]] = {}
    for name in features:
        for view, window in _windows(catalogue, name):
            found.setdefault(view, []).append((name, window))
    return tuple(_reach(catalogue, view, windows) for view, windows in found.items())


def _reach(catalogue: Catalogue, view: str, windows: list[tuple[str, Window]]) -> Reach:
    layout = catalogue.layout_by_view[view]
    return Reach(layout.id, view, layout.entity, tuple(dict.fromkeys(windows)))


def _windows(catalogue: Catalogue, name: str) -> Iterator[tuple[str, Window]]:
    view, feature, _ = catalogue.answered(name)
    if isinstance(feature, WindowFeature):
        yield view, Window.of(feature)
    elif isinstance(feature, RatioFeature):
        for part in feature.ratio:
            yield from _windows(catalogue, f"{view}:{part}")
    elif isinstance(feature, ExpressionFeature):
        for column in sorted(feature.parsed().columns):
            if ":" in column:
                yield from _windows(catalogue, column)

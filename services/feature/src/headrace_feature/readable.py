# SPDX-License-Identifier: Apache-2.0
"""Whether a layout holds all that a read looks at.

It is asked before the read, which else might see the state before history came in and be told
afterwards that all is there, and behind it: a floor is told before what lies behind it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from headrace.errors import Invalid, Unavailable
from headrace_feature.domain.completeness import moment_text
from headrace_feature.domain.plans import Plan
from headrace_feature.domain.views import Catalogue, Layout
from headrace_feature.ports import ObservationReader, ObservationStore


def check_filled(plan: Plan, store: ObservationReader) -> None:
    """Raises Unavailable RESTORING while a layout is still filled."""
    for part in plan.windows:
        for layout in part.layouts:
            check_layout_filled(layout, store)


def check_layout_filled(layout: Layout, store: ObservationReader) -> None:
    owned = store.owned(layout)
    if owned is None or store.restoring(layout) or _behind(layout, owned, store):
        raise Unavailable("RESTORING", stream=layout.stream)


def _behind(layout: Layout, partitions: Collection[int], store: ObservationReader) -> bool:
    """Whether another layout of the stream came further in one of these."""
    own, furthest = store.next_by_partition(layout), store.furthest_by_partition(layout.stream)
    return any(own.get(each, 0) < furthest.get(each, 0) for each in partitions)


def check_readable(layout: Layout, since_us: int, store: ObservationReader) -> None:
    """Raises Invalid BAD_REQUEST where its history begins later, and RESTORING as above."""
    floor_us = store.floor_us(layout)
    if since_us < floor_us:
        problem = f"history begins at {moment_text(floor_us)}: get_historical_features sees further"
        raise Invalid("BAD_REQUEST", field="as_of_us", problem=problem)
    check_layout_filled(layout, store)


class WarmUp:
    """Whether this process has once held, of every layout that is applied, all that it ever held.

    A layout that is filled from the archive is not waited for, nor one that waits for the archive:
    that may take hours, in which the others are answered. Called again and again; true for good.
    """

    def __init__(
        self,
        catalogue: Callable[[], Catalogue],
        store: ObservationStore,
        *,
        waits_for_archive: Callable[[Layout], bool],
    ) -> None:
        self._catalogue, self._store = catalogue, store
        self._waits_for_archive = waits_for_archive
        self._over = False

    def __call__(self) -> bool:
        self._over = self._over or all(map(self._caught_up, self._catalogue().layouts().values()))
        return self._over

    def _caught_up(self, layout: Layout) -> bool:
        store, filled = self._store, self._store.ahead_by_partition(layout).keys()
        ours = {*(store.owned(layout) or ())} - filled
        caught_up = not _behind(layout, ours, store) and not store.restoring(layout) - filled
        return caught_up or self._waits_for_archive(layout)

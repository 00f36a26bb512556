# SPDX-License-Identifier: Apache-2.0
"""Whether a layout holds all that a read looks at.

It is asked before the read, which else might see the state before history came in and be told
afterwards that all is there, and behind it: a floor is told before what lies behind it goes.
"""

from __future__ import annotations

from headrace.errors import Invalid, Unavailable
from headrace_feature.domain.views import Layout, Plan
from headrace_feature.ports import ObservationReader


def check_filled(plan: Plan, store: ObservationReader) -> None:
    """Raises Unavailable RESTORING while a layout is still filled."""
    for part in plan.windows:
        for layout in part.layouts:
            check_layout_filled(layout, store)


def check_layout_filled(layout: Layout, store: ObservationReader) -> None:
    owned, own = store.owned(layout), store.next_by_partition(layout)
    furthest = store.furthest_by_partition(layout.stream)
    if owned is None or store.restoring(layout):
        raise Unavailable("RESTORING", stream=layout.stream)
    if any(own.get(partition, 0) < furthest.get(partition, 0) for partition in owned):
        raise Unavailable("RESTORING", stream=layout.stream)


def check_readable(layout: Layout, since_us: int, store: ObservationReader) -> None:
    """Raises Invalid BAD_REQUEST where its history begins later, and RESTORING as above."""
    floor_us = store.floor_us(layout)
    if since_us < floor_us:
        raise Invalid("BAD_REQUEST", field="as_of_us", problem=f"history begins at {floor_us}")
    check_layout_filled(layout, store)

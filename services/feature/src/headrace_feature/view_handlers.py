# SPDX-License-Identifier: Apache-2.0
"""Which views can be answered here, and how far the others are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from headrace.errors import Unavailable
from headrace.feature_view import StreamView
from headrace_feature.domain.fill_progress import FillProgress, together
from headrace_feature.domain.views import Catalogue, Layout
from headrace_feature.ports import ObservationReader
from headrace_feature.readable import check_layout_filled

Status = Literal["READY", "FILLING", "RESTORING", "UNFIT"]
# Of a layout; None while it is not filled from the archive.
ProgressOf = Callable[[Layout], FillProgress | None]


@dataclass(frozen=True, slots=True)
class ViewState:
    """`progress`: while it is filled from the archive here."""

    view: str
    status: Status
    progress: FillProgress | None = None


def list_views(
    *, catalogue: Catalogue, store: ObservationReader, progress_of: ProgressOf
) -> list[ViewState]:
    """By name."""
    return [
        _state(name, _layouts(catalogue, name), store, progress_of)
        for name in sorted(catalogue.views)
    ]


def _layouts(catalogue: Catalogue, name: str) -> list[Layout] | None:
    """None where there is none yet, and should be."""
    if not isinstance(catalogue.views[name], StreamView):
        return []
    if name not in catalogue.layout_by_view:
        return None
    looked_up = [each.layout for each in catalogue.lookups_by_view[name]]
    return [catalogue.layout_by_view[name], *looked_up]


def _state(
    name: str, layouts: list[Layout] | None, store: ObservationReader, progress_of: ProgressOf
) -> ViewState:
    if layouts is None:
        return ViewState(name, "UNFIT")
    if all(_filled(each, store) for each in layouts):
        return ViewState(name, "READY")
    progress = together(each for each in map(progress_of, layouts) if each is not None)
    return ViewState(name, "RESTORING" if progress is None else "FILLING", progress)


def _filled(layout: Layout, store: ObservationReader) -> bool:
    try:
        check_layout_filled(layout, store)
    except Unavailable:
        return False
    return True

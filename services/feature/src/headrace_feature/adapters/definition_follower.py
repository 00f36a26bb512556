# SPDX-License-Identifier: Apache-2.0
"""Keeps the catalogue equal to `registry.definitions`, and tells when the layouts changed."""

from __future__ import annotations

from collections.abc import Callable

from headrace.applied import read_applied
from headrace_feature.domain.views import Catalogue
from headrace_kit.kafka import Record


class DefinitionFollower:
    """Holds the catalogue; `on_record` is called by one thread, `catalogue` by any."""

    def __init__(self, on_layouts: Callable[[Catalogue], None]) -> None:
        self._catalogue = Catalogue()
        self._on_layouts = on_layouts

    def catalogue(self) -> Catalogue:
        return self._catalogue

    def on_record(self, record: Record) -> None:
        """Raises Invalid for what cannot be read; the follower skips it."""
        before, applied = self._catalogue, read_applied(record.key, record.value)
        if applied.definition is None:
            self._catalogue = before.without(applied.kind, applied.name)
        else:
            self._catalogue = before.with_definition(applied.definition)
        if self._catalogue.layouts().keys() != before.layouts().keys():
            self._on_layouts(self._catalogue)

# SPDX-License-Identifier: Apache-2.0
"""Keeps the catalogue equal to `registry.definitions`, and tells when the layouts changed."""

from __future__ import annotations

from collections.abc import Callable

from headrace.application import parse_definition_json
from headrace.registry.v1.registry_events_pb2 import Definition
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
        """Raises Invalid BAD_DEFINITION; the follower logs it and goes on."""
        before = self._catalogue
        if record.value is None:
            kind, _, name = (record.key or b"").decode().partition("/")
            self._catalogue = before.without(kind, name)
        else:
            spec_json = Definition.FromString(record.value).spec_json
            self._catalogue = before.with_definition(parse_definition_json(spec_json))
        if self._catalogue.layouts().keys() != before.layouts().keys():
            self._on_layouts(self._catalogue)

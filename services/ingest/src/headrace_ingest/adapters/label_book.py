# SPDX-License-Identifier: Apache-2.0
"""LabelBook filled from `registry.definitions`, live, with what endpoints call their entities."""

from __future__ import annotations

from collections.abc import Callable

from headrace.application import Endpoint
from headrace.applied import read_applied
from headrace.errors import NotFound
from headrace.label_definition import LabelDefinition
from headrace_kit.kafka import Record


class AppliedLabels:
    """The newest definition of each label; `on_change` is told of each change."""

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self._labels: dict[str, LabelDefinition] = {}
        self._entity_keys: dict[str, str] = {}
        self._on_change = on_change

    def take(self, record: Record) -> None:
        """Take a record of the topic; raises Invalid for one that cannot be read."""
        applied = read_applied(record.key, record.value)
        if isinstance(applied.definition, LabelDefinition):
            self.put(applied.definition)
        elif isinstance(applied.definition, Endpoint) and applied.definition.entity_key:
            # Also when the endpoint is taken back: tasks of what it answered stay.
            of_endpoint = {applied.name: applied.definition.entity_key}
            self._entity_keys = {**self._entity_keys, **of_endpoint}
        elif applied.definition is None and applied.kind == "label":
            self._labels = {n: each for n, each in self._labels.items() if n != applied.name}
            self._on_change()

    def put(self, label: LabelDefinition) -> None:
        """From now on this is the label's definition."""
        # Replaced, never changed: readers in other threads see the one or the other.
        self._labels = {**self._labels, label.name: label}
        self._on_change()

    def get(self, label: str) -> LabelDefinition:
        try:
            return self._labels[label]
        except KeyError as err:
            raise NotFound("LABEL_UNKNOWN", label=label[:128]) from err

    def all(self) -> list[LabelDefinition]:
        return list(self._labels.values())

    def entity_columns(self) -> frozenset[str]:
        of_labels = {each.key for each in self._labels.values() if each.by == "entity"}
        return frozenset(of_labels.union(self._entity_keys.values()))

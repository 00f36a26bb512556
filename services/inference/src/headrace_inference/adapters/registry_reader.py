# SPDX-License-Identifier: Apache-2.0
"""Reads the registry's topics into the serving table.

A definition that cannot be read is skipped by the follower, as in every service; a rollout, which
concerns this one alone, is set aside."""

from __future__ import annotations

from collections.abc import Callable

from headrace.application import Endpoint
from headrace.applied import read_applied
from headrace.errors import Invalid
from headrace_inference.adapters import conversions
from headrace_inference.domain.serving import ServingTable
from headrace_kit.dead_letters import dead_letter
from headrace_kit.kafka import Publisher, Record


class RegistryReader:
    """Notes definitions and rollouts; `on_wanted` is called for each new rollout."""

    def __init__(
        self, table: ServingTable, *, dead_letters: Publisher, on_wanted: Callable[[], None]
    ) -> None:
        self._table = table
        self._dead_letters = dead_letters
        self._on_wanted = on_wanted

    def take_definition(self, record: Record) -> None:
        """Raises Invalid for what cannot be read."""
        applied = read_applied(record.key, record.value)
        if isinstance(applied.definition, Endpoint):
            self._table.define(applied.definition)
        elif applied.definition is None and applied.kind == "endpoint":
            self._table.take_back(applied.name)

    def take_rollout(self, record: Record) -> None:
        try:
            self._want(record)
        except Invalid as err:
            letter = dead_letter(record, reason=err.reason, service="inference")
            self._dead_letters.publish([letter])

    def _want(self, record: Record) -> None:
        if record.value is None:
            raise Invalid("TOMBSTONE", topic=record.topic)
        if self._table.want(conversions.rollout(record.value)):
            self._on_wanted()

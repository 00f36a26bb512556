# SPDX-License-Identifier: Apache-2.0
"""Reads the registry's topics into the serving table; a record that cannot be read is set aside."""

from __future__ import annotations

from collections.abc import Callable

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
        self._take(record, self._define)

    def take_rollout(self, record: Record) -> None:
        self._take(record, self._want)

    def _define(self, value: bytes) -> None:
        definition = conversions.endpoint_definition(value)
        if definition is not None:
            self._table.define(definition)

    def _want(self, value: bytes) -> None:
        if self._table.want(conversions.rollout(value)):
            self._on_wanted()

    def _take(self, record: Record, note: Callable[[bytes], None]) -> None:
        try:
            if record.value is None:
                raise Invalid("TOMBSTONE", topic=record.topic)
            note(record.value)
        except Invalid as err:
            letter = dead_letter(record, reason=err.reason, service="inference")
            self._dead_letters.publish([letter])

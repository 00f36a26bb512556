# SPDX-License-Identifier: Apache-2.0
"""Reads the registry's topics into the serving table.

A definition that cannot be read is skipped by the follower, as in every service; a rollout, which
concerns this one alone, is set aside. A generation never goes back: what a registry tells that was
put back to an old copy is refused, and the follower says so."""

from __future__ import annotations

from collections.abc import Callable

from headrace.application import Endpoint
from headrace.applied import read_applied
from headrace.errors import Conflict, Invalid
from headrace_inference.adapters import conversions
from headrace_inference.domain.rollout import Rollout
from headrace_inference.domain.serving import ServingTable
from headrace_kit.dead_letters import dead_letter
from headrace_kit.kafka import Publisher, Record

# Of each endpoint, the newest: what comes again is told from what is new under an old number.
GENERATIONS_MAX = 64


class RegistryReader:
    """Notes definitions and rollouts; `on_wanted` is called for what may have to be loaded."""

    def __init__(
        self, table: ServingTable, *, dead_letters: Publisher, on_wanted: Callable[[], None]
    ) -> None:
        self._table = table
        self._dead_letters = dead_letters
        self._on_wanted = on_wanted
        self._told: dict[str, dict[int, bytes]] = {}  # by endpoint and generation

    def take_definition(self, record: Record) -> None:
        """Raises Invalid for what cannot be read."""
        applied = read_applied(record.key, record.value)
        if isinstance(applied.definition, Endpoint):
            self._table.define(applied.definition)
            self._on_wanted()
        elif applied.definition is None and applied.kind == "endpoint":
            self._table.take_back(applied.name)

    def take_rollout(self, record: Record) -> None:
        """Raises Conflict GENERATION_REUSED; what is served stays."""
        try:
            self._want(record)
        except Invalid as err:
            letter = dead_letter(record, reason=err.reason, service="inference")
            self._dead_letters.publish([letter])

    def _want(self, record: Record) -> None:
        if record.value is None:
            raise Invalid("TOMBSTONE", topic=record.topic)
        rollout = conversions.rollout(record.value)
        self._check_generation(rollout, record.value)
        if self._table.want(rollout):
            self._on_wanted()

    def _check_generation(self, rollout: Rollout, value: bytes) -> None:
        """Repeats have the same bytes: an outbox may send them again, in their order."""
        told = self._told.setdefault(rollout.endpoint, {})
        newest = max(told, default=0)
        known = rollout.generation in told
        if known and told[rollout.generation] == value:
            return
        if known or rollout.generation <= newest:
            named = {"endpoint": rollout.endpoint, "generation": rollout.generation}
            raise Conflict("GENERATION_REUSED", **named, newest=newest)
        told[rollout.generation] = value
        if len(told) > GENERATIONS_MAX:
            del told[min(told)]

# SPDX-License-Identifier: Apache-2.0
"""VersionBook from `registry.model-versions`, in memory.

An alias never goes back: what comes again, or of a registry that was put back, names an older move.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from headrace.errors import Conflict, Invalid
from headrace.model_reference import ModelReference
from headrace.registry.v1 import registry_events_pb2 as events
from headrace_kit.kafka import Record
from headrace_trainer.domain.run import COMPONENT
from headrace_trainer.ports import NamedVersion


class RegistryVersionBook:
    """Fed by the follower's thread; each entry is replaced whole, so no reader needs a lock."""

    def __init__(self) -> None:
        self._aliases: dict[tuple[str, str], NamedVersion] = {}  # by model and alias
        self._newest: dict[str, tuple[int, frozenset[str]]] = {}  # by model

    def follow(self, record: Record) -> None:
        """The follower skips what raises Invalid DECODE_ERROR: it cannot be read; or Conflict
        GENERATION_REUSED: it was another move before.
        """
        try:
            event = events.ModelVersionEvent.FromString(record.value or b"")
        except DecodeError as err:
            raise Invalid("DECODE_ERROR", message="ModelVersionEvent") from err
        kind = event.WhichOneof("event")
        if kind == "alias_moved":
            self._move(event.alias_moved.alias)
        elif kind == "version_registered":
            self._register(event.version_registered.version)

    def alias(self, reference: ModelReference) -> NamedVersion | None:
        return self._aliases.get((reference.model, reference.alias))

    def components(self, graph: str) -> frozenset[str] | None:
        newest = self._newest.get(graph)
        return None if newest is None else newest[1]

    def _move(self, alias: events.Alias) -> None:
        named = (alias.model, alias.alias)
        known = self._aliases.get(named)
        told = NamedVersion(str(ModelReference(alias.model, alias.version, "")), alias.generation)
        if known is None or known.generation < told.generation:
            self._aliases[named] = told
        elif known.generation == told.generation and known != told:
            moved = {"model": alias.model, "alias": alias.alias, "generation": alias.generation}
            raise Conflict("GENERATION_REUSED", **moved)

    def _register(self, version: events.ModelVersion) -> None:
        number, _ = self._newest.get(version.model, (0, None))
        if number < version.version:
            keys = version.trained.manifest
            inside = (key.removeprefix(COMPONENT) for key in keys if key.startswith(COMPONENT))
            self._newest[version.model] = version.version, frozenset(inside)

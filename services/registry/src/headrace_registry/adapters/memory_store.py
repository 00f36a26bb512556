# SPDX-License-Identifier: Apache-2.0
"""RegistryStore in memory, for tests and for a look around: it obeys the same laws as the SQL one.

A transaction works on a copy of the tables, whose rows are frozen; the copy takes their place when
the block ends. One lock makes transactions follow one another.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace

from headrace.errors import Conflict, NotFound
from headrace_kit.topic_positions import MemoryPositions
from headrace_registry.domain.acceptance import Acceptance
from headrace_registry.domain.alias import Alias
from headrace_registry.domain.change import Change
from headrace_registry.domain.definition import (
    Definition,
    DefinitionRetracted,
    applied,
    order_of,
)
from headrace_registry.domain.lineage import sources_of
from headrace_registry.domain.request import Request
from headrace_registry.domain.rollout import Rollout
from headrace_registry.domain.version import (
    GateOpened,
    ModelVersion,
    VersionDescribed,
    VersionRetracted,
    VersionSigned,
)
from headrace_registry.ports import Answer, Answered, Event


@dataclass
class Tables:
    """What the SQL store keeps in tables of the same names."""

    definitions: dict[tuple[str, str], Definition] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    versions: dict[tuple[str, int], ModelVersion] = field(default_factory=dict)
    passed_gates: dict[tuple[str, int, str], None] = field(default_factory=dict)
    acceptances: dict[str, Acceptance] = field(default_factory=dict)
    aliases: dict[tuple[str, str], Alias] = field(default_factory=dict)
    alias_moves: dict[tuple[str, str, int], Alias] = field(default_factory=dict)
    changes: dict[int, Change] = field(default_factory=dict)
    rollouts: dict[str, Rollout] = field(default_factory=dict)
    requests: dict[str, tuple[str, object]] = field(default_factory=dict)
    inbox: dict[tuple[str, str], None] = field(default_factory=dict)
    outbox: dict[int, Event] = field(default_factory=dict)

    def copy(self) -> Tables:
        return Tables(*(dict(getattr(self, each.name)) for each in fields(self)))


class MemoryRegistryStore:
    """RegistryStore that ends with the process."""

    def __init__(self) -> None:
        self._tables = Tables()
        self._positions = MemoryPositions()
        self._lock = threading.Lock()

    @contextmanager
    def reading(self) -> Iterator[MemoryTransaction]:
        with self._lock:
            yield MemoryTransaction(self._tables.copy())

    @contextmanager
    def transaction(self) -> Iterator[MemoryTransaction]:
        with self._lock:
            draft = self._tables.copy()
            yield MemoryTransaction(draft)
            self._tables = draft

    def follow_topics(self, topic_ids: Mapping[str, str]) -> None:
        self._positions.follow_topics(topic_ids)

    def positions(self) -> Mapping[tuple[str, int], int]:
        return self._positions.get()

    def save_positions(self, next_offsets: Mapping[tuple[str, int], int]) -> None:
        self._positions.save(next_offsets)

    def published(self) -> list[Event]:
        """What the outbox holds, in order."""
        return list(self._tables.outbox.values())


class MemoryTransaction:
    """RegistryTransaction on a draft of the tables."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def first_answer(self, request: Request, kind: type[Answer]) -> Answer | None:
        digest, answer = self._tables.requests.get(request.id, (request.digest, None))
        if digest != request.digest:
            raise Conflict("REQUEST_REUSED", request_id=request.id)
        return answer if isinstance(answer, kind) else None

    def remember(self, request: Request, answer: Answered) -> None:
        self._tables.requests[request.id] = (request.digest, answer)

    def first_time(self, consumer: str, ce_id: str) -> bool:
        known = (consumer, ce_id) in self._tables.inbox
        self._tables.inbox[consumer, ce_id] = None
        return not known

    def lock_definitions(self) -> None:
        """The store's lock is held."""

    def definitions(self) -> list[Definition]:
        return applied(self.ever_applied())

    def ever_applied(self) -> list[Definition]:
        return sorted(self._tables.definitions.values(), key=order_of)

    def put_definition(self, definition: Definition) -> None:
        self._tables.definitions[definition.key] = definition
        self._emit(definition)

    def retract_definition(self, retracted: DefinitionRetracted) -> None:
        self._tables.definitions[retracted.definition.key] = retracted.definition
        self._emit(retracted)

    def lock_model(self, model: str) -> None:
        """The store's lock is held."""

    def next_version(self, model: str) -> int:
        number = self._tables.counters.get(model, 0) + 1
        self._tables.counters[model] = number
        return number

    def add_version(self, version: ModelVersion) -> None:
        self._tables.versions[version.model, version.version] = version
        if version.gate.passed:
            self._tables.passed_gates[version.model, version.version, version.digest] = None
        self._emit(version)

    def acceptance(self, digest: str) -> Acceptance | None:
        return self._tables.acceptances.get(digest)

    def add_acceptance(self, digest: str, acceptance: Acceptance) -> None:
        self._tables.acceptances[digest] = acceptance

    def open_gate(self, version: ModelVersion) -> None:
        self._tables.versions[version.model, version.version] = version
        self._tables.passed_gates[version.model, version.version, version.digest] = None
        self._emit(GateOpened(version))

    def retract_version(self, version: ModelVersion) -> None:
        key = (version.model, version.version)
        pointed = {(each.model, each.version) for each in self._tables.aliases.values()}
        for rollout in self._tables.rollouts.values():
            served = (rollout.champion, rollout.canary)
            pointed |= {(rollout.model, each.version) for each in served if each is not None}
        if key in pointed:
            raise Conflict("VERSION_NEEDED", model=version.model, version=version.version)
        self._tables.passed_gates.pop((*key, version.digest), None)
        self._tables.versions[key] = version
        self._emit(VersionRetracted(version))

    def describe(self, version: ModelVersion) -> None:
        self._tables.versions[version.model, version.version] = version
        self._emit(VersionDescribed(version))

    def sign(self, version: ModelVersion) -> None:
        self._tables.versions[version.model, version.version] = version
        self._emit(VersionSigned(version))

    def version(self, model: str, version: int) -> ModelVersion:
        try:
            return self._tables.versions[model, version]
        except KeyError as err:
            raise NotFound("VERSION_UNKNOWN", model=model, version=version) from err

    def version_of_run(self, run_id: str) -> ModelVersion | None:
        found = (each for each in self._tables.versions.values() if each.run_id == run_id)
        return next(found, None)

    def versions_from(self, kind: str, name: str) -> list[tuple[str, int]]:
        return [
            key
            for key, version in self._tables.versions.items()
            if any(
                source.name == name and kind in ("", source.kind) for source in sources_of(version)
            )
        ]

    def source_names(self, kind: str, prefix: str, *, limit: int) -> list[str]:
        found = {
            source.name
            for version in self._tables.versions.values()
            for source in sources_of(version)
            if source.name.startswith(prefix) and kind in ("", source.kind)
        }
        return sorted(found)[:limit]

    def newest_versions(self) -> dict[str, int]:
        return dict(sorted(self._tables.versions))

    def versions(self, model: str, *, below: int | None, limit: int) -> list[ModelVersion]:
        found = [
            each
            for each in self._tables.versions.values()
            if each.model == model and (below is None or each.version < below)
        ]
        return sorted(found, key=lambda each: -each.version)[:limit]

    def aliases(self, model: str) -> dict[str, Alias]:
        found = sorted(self._tables.aliases.items())
        return {alias: moved for (owner, alias), moved in found if owner == model}

    def swap(self, moved: Alias) -> None:
        key = (moved.model, moved.alias)
        stored = self._tables.aliases[key].generation if key in self._tables.aliases else 0
        if stored != moved.generation - 1:
            raise Conflict("ALIAS_MOVED", **_named(moved))
        if (moved.model, moved.version, moved.digest) not in self._tables.passed_gates:
            raise Conflict("GATE_NOT_PASSED", **_named(moved))
        self._tables.aliases[key] = moved
        self._tables.alias_moves[moved.model, moved.alias, moved.generation] = moved
        self._emit(moved)

    def alias_moves(self, model: str, alias: str, *, below: int | None, limit: int) -> list[Alias]:
        found = [
            moved
            for (owner, name, generation), moved in sorted(self._tables.alias_moves.items())
            if (owner, name) == (model, alias) and (below is None or generation < below)
        ]
        return found[::-1][:limit]

    def note(self, change: Change) -> None:
        number = len(self._tables.changes) + 1
        self._tables.changes[number] = replace(change, number=number)

    def changes(self, model: str, *, below: int | None, limit: int) -> list[Change]:
        found = [
            change
            for number, change in self._tables.changes.items()
            if model in ("", change.model) and (below is None or number < below)
        ]
        return found[::-1][:limit]

    def rollouts(self) -> dict[str, Rollout]:
        return dict(sorted(self._tables.rollouts.items()))

    def rollouts_of(self, model: str) -> dict[str, Rollout]:
        return {name: each for name, each in self.rollouts().items() if each.model == model}

    def put_rollout(self, rollout: Rollout) -> None:
        before = self._tables.rollouts.get(rollout.endpoint)
        if (before.generation if before else 0) != rollout.generation - 1:
            raise Conflict("ROLLOUT_MOVED", endpoint=rollout.endpoint)
        self._tables.rollouts[rollout.endpoint] = rollout
        self._emit(rollout)

    def _emit(self, event: Event) -> None:
        self._tables.outbox[len(self._tables.outbox)] = event


def _named(moved: Alias) -> dict[str, object]:
    return {
        "model": moved.model,
        "alias": moved.alias,
        "version": moved.version,
        "generation_expected": moved.generation - 1,
    }

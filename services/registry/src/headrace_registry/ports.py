# SPDX-License-Identifier: Apache-2.0
"""What the handlers need from the world: one transactional store, and bytes by digest.

Each write of the store also stores its event for the outbox, so that no state can change unseen.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from headrace_registry.domain.alias import Alias
from headrace_registry.domain.definition import AppliedDefinitions, Definition
from headrace_registry.domain.request import Request
from headrace_registry.domain.rollout import Rollout
from headrace_registry.domain.version import ModelVersion

# What the store publishes when it stores it.
Event = Definition | ModelVersion | Alias | Rollout
Answer = TypeVar("Answer", Alias, AppliedDefinitions)


class RegistryReader(Protocol):
    """One look at what is stored."""

    def definitions(self) -> list[Definition]:
        """The newest of each kind and name, in the order of KINDS."""

    def version(self, model: str, version: int) -> ModelVersion:
        """Raises NotFound VERSION_UNKNOWN."""

    def version_of_run(self, run_id: str) -> ModelVersion | None: ...

    def versions(self, model: str, *, below: int | None, limit: int) -> list[ModelVersion]:
        """Newest first."""

    def aliases(self, model: str) -> dict[str, Alias]: ...

    def rollouts(self) -> dict[str, Rollout]:
        """By endpoint."""


class RegistryTransaction(RegistryReader, Protocol):
    """All of it happens when the block ends, or none. Nothing is seen by others before."""

    def first_answer(self, request: Request, kind: type[Answer]) -> Answer | None:
        """The answer given to this request before, or None; a second asker waits for the first.

        Raises Conflict REQUEST_REUSED when the id was used for something else.
        """

    def remember(self, request: Request, answer: Alias | AppliedDefinitions) -> None: ...

    def first_time(self, consumer: str, ce_id: str) -> bool:
        """Notes the event; False when it was noted before, and then it must have no effect."""

    def lock_definitions(self) -> None:
        """Until the end, no other transaction holds this lock."""

    def lock_model(self, model: str) -> None:
        """Until the end, no other transaction holds this lock: a model's story has one order."""

    def put_definition(self, definition: Definition) -> None:
        """Stores a new version of it."""

    def next_version(self, model: str) -> int:
        """Counts up; the number is given back if the transaction fails, so there are no gaps."""

    def add_version(self, version: ModelVersion) -> None:
        """Stores it and, when it passed, the gate that aliases and rollouts may refer to."""

    def swap(self, moved: Alias) -> None:
        """Moves the alias.

        Raises Conflict ALIAS_MOVED unless the stored generation is one below `moved.generation`,
        Conflict GATE_NOT_PASSED unless that version passed its gate with that digest.
        """

    def put_rollout(self, rollout: Rollout) -> None:
        """Raises Conflict ROLLOUT_MOVED unless the stored generation is one below."""


class RegistryStore(Protocol):
    """The registry's state; Unavailable DATABASE_UNAVAILABLE when it does not answer."""

    def reading(self) -> AbstractContextManager[RegistryReader]: ...

    def transaction(self) -> AbstractContextManager[RegistryTransaction]: ...

    def positions(self) -> Mapping[tuple[str, int], int]:
        """Next offset by topic and partition, as saved."""

    def save_positions(self, next_offsets: Mapping[tuple[str, int], int]) -> None: ...


class ArtifactStore(Protocol):
    """Bytes by key; NotFound ARTIFACT_UNKNOWN for a key that is not there."""

    def put_if_absent(self, key: str, data: bytes) -> bool: ...

    def get(self, key: str) -> bytes: ...

    def exists(self, key: str) -> bool: ...

# SPDX-License-Identifier: Apache-2.0
"""What the handlers need from the world: one transactional store, and bytes by digest.

Each write of the store also stores its event for the outbox, so that no state can change unseen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import IO, Protocol, TypeVar

from headrace_registry.domain.acceptance import Acceptance
from headrace_registry.domain.alias import Alias
from headrace_registry.domain.change import Change
from headrace_registry.domain.definition import (
    AppliedDefinitions,
    Definition,
    DefinitionRetracted,
)
from headrace_registry.domain.request import Request
from headrace_registry.domain.rollout import Rollout
from headrace_registry.domain.version import (
    GateOpened,
    ModelVersion,
    VersionDescribed,
    VersionRetracted,
    VersionSigned,
)

# What the store publishes when it stores it.
Event = (
    Definition
    | DefinitionRetracted
    | ModelVersion
    | GateOpened
    | VersionDescribed
    | VersionRetracted
    | VersionSigned
    | Alias
    | Rollout
)
Answered = Alias | AppliedDefinitions | Definition | ModelVersion | Rollout
Answer = TypeVar("Answer", Alias, AppliedDefinitions, Definition, ModelVersion, Rollout)


class RegistryReader(Protocol):
    """One look at what is stored."""

    def definitions(self) -> list[Definition]:
        """The newest of each kind and name that is applied, in the order of KINDS."""

    def ever_applied(self) -> list[Definition]:
        """The same with those that were taken back, as they were last."""

    def acceptance(self, digest: str) -> Acceptance | None:
        """What was found in the file; None when nobody has looked through it."""

    def version(self, model: str, version: int) -> ModelVersion:
        """Raises NotFound VERSION_UNKNOWN."""

    def version_of_run(self, run_id: str) -> ModelVersion | None: ...

    def versions(self, model: str, *, below: int | None, limit: int) -> list[ModelVersion]:
        """Newest first."""

    def versions_from(self, kind: str, name: str) -> list[tuple[str, int]]:
        """Model and number of each version that came of this source; an empty kind means any."""

    def source_names(self, kind: str, prefix: str, *, limit: int) -> list[str]:
        """Names of sources that begin so, each once; an empty kind means any."""

    def newest_versions(self) -> dict[str, int]:
        """The number of the newest by model, of all that have one."""

    def aliases(self, model: str) -> dict[str, Alias]: ...

    def alias_moves(self, model: str, alias: str, *, below: int | None, limit: int) -> list[Alias]:
        """By generation, newest first."""

    def changes(self, model: str, *, below: int | None, limit: int) -> list[Change]:
        """Newest first; of all models and of definitions when no model is named."""

    def rollouts(self) -> dict[str, Rollout]:
        """By endpoint."""

    def rollouts_of(self, model: str) -> dict[str, Rollout]:
        """Of the endpoints that serve the model."""


class RegistryTransaction(RegistryReader, Protocol):
    """All of it happens when the block ends, or none. Nothing is seen by others before."""

    def first_answer(self, request: Request, kind: type[Answer]) -> Answer | None:
        """The answer given to this request before, or None; a second asker waits for the first.

        Raises Conflict REQUEST_REUSED when the id was used for something else.
        """

    def remember(self, request: Request, answer: Answered) -> None: ...

    def first_time(self, consumer: str, ce_id: str) -> bool:
        """Notes the event; False when it was noted before, and then it must have no effect."""

    def lock_definitions(self) -> None:
        """Until the end, no other transaction holds this lock."""

    def lock_model(self, model: str) -> None:
        """Until the end, no other transaction holds this lock: a model's story has one order."""

    def note(self, change: Change) -> None:
        """Stores the change with the next number."""

    def put_definition(self, definition: Definition) -> None:
        """Stores a new version of it."""

    def retract_definition(self, retracted: DefinitionRetracted) -> None:
        """From now on it is not applied; its versions stay."""

    def add_acceptance(self, digest: str, acceptance: Acceptance) -> None:
        """Stores what was found; a second look finds the same, and changes nothing."""

    def next_version(self, model: str) -> int:
        """Counts up; the number is given back if the transaction fails, so there are no gaps."""

    def add_version(self, version: ModelVersion) -> None:
        """Stores it and, when it passed, the gate that aliases and rollouts may refer to."""

    def open_gate(self, version: ModelVersion) -> None:
        """Stores the gate of a version that was approved; aliases and rollouts may refer to it."""

    def retract_version(self, version: ModelVersion) -> None:
        """Stores the gate, shut; aliases and rollouts may refer to it no more.

        Raises Conflict VERSION_NEEDED while one does.
        """

    def describe(self, version: ModelVersion) -> None:
        """Stores what is said of the version."""

    def sign(self, version: ModelVersion) -> None:
        """Stores who vouches for the version, and the gate as that leaves it."""

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

    def follow_topics(self, topic_ids: Mapping[str, str]) -> None:
        """Positions are about the topics with these ids; those of another one are forgotten."""

    def positions(self) -> Mapping[tuple[str, int], int]:
        """Next offset by topic and partition, as saved."""

    def save_positions(self, next_offsets: Mapping[tuple[str, int], int]) -> None: ...


class Acceptor(Protocol):
    """Looks through files that may be hostile, out of the way of everything else."""

    def accept(self, file: IO[bytes]) -> Acceptance:
        """Raises Invalid FORMAT, EXTERNAL_DATA, OPSET, PICKLE, VALIDATION_LIMIT."""


class Spool(Protocol):
    """Where files lie while they are checked and passed on."""

    def __call__(self) -> AbstractContextManager[IO[bytes]]:
        """A new file on disk, which is gone at the end; Busy DISK_FULL."""


class SignatureVerifier(Protocol):
    """Knows whom the operator believes."""

    def verify(self, bundle: bytes, *, name: str, digest: str) -> str:
        """Who vouches for this file under this name; raises Invalid SIGNATURE_INVALID."""


class ArtifactStore(Protocol):
    """Bytes by key; NotFound ARTIFACT_UNKNOWN for a key that is not there."""

    def put_if_absent(self, key: str, data: bytes) -> bool: ...

    def put_file_if_absent(self, key: str, file: IO[bytes]) -> bool: ...

    def put_file(self, key: str, file: IO[bytes]) -> None:
        """In place of what is there: who reads has the old or these; a failure leaves the old."""

    def get(self, key: str) -> bytes: ...

    def pieces(self, key: str) -> Iterator[bytes]: ...

    def exists(self, key: str) -> bool: ...

    def keys(self, folder: str) -> list[str]:
        """What was put below `folder`, sorted."""

    def delete(self, key: str) -> None:
        """Forgets the key; one that is absent stays so."""

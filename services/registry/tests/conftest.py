# SPDX-License-Identifier: Apache-2.0
"""The registry over each of its stores: memory, SQLite, PostgreSQL. The laws are the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select, text

from headrace_kit.kafka import Message
from headrace_kit.objects import MemoryObjectStore
from headrace_kit.outbox import Outbox
from headrace_kit.sql import INBOX, OUTBOX, connect
from headrace_kit.testing import FixedClock
from headrace_registry.adapters import sql_tables
from headrace_registry.adapters.conversions import messages_of
from headrace_registry.adapters.memory_store import MemoryRegistryStore
from headrace_registry.adapters.sql_store import SqlRegistryStore
from headrace_registry.domain.artifact import artifact_key
from headrace_registry.domain.definition import AppliedDefinitions
from headrace_registry.domain.page import ListVersions
from headrace_registry.domain.rollout import Rollout
from headrace_registry.domain.version import ModelVersion, RunCompleted
from headrace_registry.handlers.definitions import apply_definitions
from headrace_registry.handlers.queries import list_versions
from headrace_registry.handlers.versions import register_trained, register_version
from headrace_registry.ports import RegistryStore, SignatureVerifier
from headrace_registry.testing import (
    DIGEST,
    ONNX,
    ReadingAcceptor,
    TrustingVerifier,
    a_file,
    a_registration,
    a_run,
    an_apply,
)


@dataclass
class Registry:
    """The handlers over a store, and what the outbox holds."""

    store: RegistryStore
    outbox: Callable[[], list[tuple[str, str]]]
    engine: Engine | None = None
    clock: FixedClock = field(default_factory=FixedClock)
    artifacts: MemoryObjectStore = field(default_factory=MemoryObjectStore)
    acceptor: ReadingAcceptor = field(default_factory=ReadingAcceptor)
    verifier: SignatureVerifier = field(default_factory=TrustingVerifier)

    def published(self, part: str = "") -> list[str]:
        """ce_ids in order, of the topics whose name holds `part`."""
        return [ce_id for topic, ce_id in self.outbox() if part in topic]

    def apply(self, *documents: dict[str, Any], **command: str) -> AppliedDefinitions:
        return apply_definitions(
            an_apply(*documents, **command), caller="tests", store=self.store, clock=self.clock
        )

    def complete(self, run: RunCompleted) -> None:
        register_trained(
            run,
            store=self.store,
            artifacts=self.artifacts,
            acceptor=self.acceptor,
            spool=a_file,
            clock=self.clock,
        )

    def complete_runs(self, *aucs: float) -> None:
        """One completed run for each AUC: run-1, run-2, ..."""
        for number, auc in enumerate(aucs, start=1):
            self.complete(a_run(f"run-{number}", auc=auc))

    def register(self, request_id: str = "register-1", **command: Any) -> ModelVersion:
        return register_version(
            a_registration(request_id, **command),
            caller="tests",
            store=self.store,
            artifacts=self.artifacts,
            acceptor=self.acceptor,
            spool=a_file,
            clock=self.clock,
        )

    def versions(self, model: str = "delay") -> list[ModelVersion]:
        return list(list_versions(ListVersions(model, 0, ""), store=self.store).versions)

    def champion(self) -> tuple[int, int]:
        """(version, generation) of the champion."""
        with self.store.reading() as reader:
            alias = reader.aliases("delay")["champion"]
        return alias.version, alias.generation

    def rollout(self, endpoint: str = "delay") -> Rollout:
        with self.store.reading() as reader:
            return reader.rollouts()[endpoint]


def memory_registry() -> Registry:
    store = MemoryRegistryStore()

    def outbox() -> list[tuple[str, str]]:
        messages = [each for event in store.published() for each in messages_of(event)]
        return [(message.topic, ce_id_of(message)) for message in messages]

    return Registry(store, outbox)


def sql_registry(uri: str) -> Registry:
    engine = connect(uri, schema="registry")
    sql_tables.MIGRATIONS.upgrade(engine)

    def outbox() -> list[tuple[str, str]]:
        with engine.begin() as connection:
            rows = connection.execute(select(OUTBOX).order_by(OUTBOX.c.id)).all()
        return [(row.topic, headers_of(row)["ce_id"]) for row in rows]

    return Registry(SqlRegistryStore(engine, Outbox(), lambda: None), outbox, engine)


def ce_id_of(message: Message) -> str:
    return dict(message.headers)["ce_id"].decode()


def headers_of(row: Any) -> dict[str, str]:
    return json.loads(row.headers)


POSTGRES = pytest.param("postgres", marks=pytest.mark.integration)


@pytest.fixture(params=["memory", "sqlite", POSTGRES])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    """A registry with an artifact in its store and the small application applied."""
    yield from _registry(request, tmp_path)


@pytest.fixture(params=["sqlite", POSTGRES])
def sql(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    """The same, over the SQL stores only."""
    yield from _registry(request, tmp_path)


@pytest.fixture(params=["sqlite"])
def sqlite(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    """The same, in a file that other processes can open."""
    yield from _registry(request, tmp_path)


def _registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    if request.param == "memory":
        made = memory_registry()
    elif request.param == "sqlite":
        made = sql_registry(f"sqlite:///{tmp_path}/registry.sqlite")
    else:
        made = sql_registry(_emptied(request.getfixturevalue("postgres_server")))
    made.artifacts.put_if_absent(artifact_key(DIGEST), ONNX)
    made.apply(request_id="setup")
    yield made
    if made.engine is not None:
        made.engine.dispose()


def _emptied(dsn: str) -> str:
    """The server's database without rows; making the tables again would cost more."""
    engine = connect(dsn, schema="registry")
    sql_tables.MIGRATIONS.upgrade(engine)
    names = [table.name for table in (*sql_tables.METADATA.tables.values(), OUTBOX, INBOX)]
    with engine.begin() as connection:
        connection.execute(text(f"truncate {', '.join(names)}"))
    engine.dispose()
    return dsn

# SPDX-License-Identifier: Apache-2.0
"""RegistryStore on SQLite or PostgreSQL: state and event in one transaction, the event by outbox.

Each compare-and-set is one statement, its own comparison: there is no read that could go stale
before the write. What orders several statements is a row lock by name, taken first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, Engine, Row, func, select, text, tuple_
from sqlalchemy.exc import IntegrityError

from headrace.errors import Conflict, NotFound
from headrace_kit.failpoints import failpoint
from headrace_kit.outbox import Outbox
from headrace_kit.sql import Inbox
from headrace_kit.sql import transaction as sql_transaction
from headrace_registry.adapters import sql_tables as tables
from headrace_registry.adapters.conversions import messages_of
from headrace_registry.domain.alias import Alias
from headrace_registry.domain.definition import AppliedDefinitions, Definition, order_of
from headrace_registry.domain.gate import Gate
from headrace_registry.domain.request import Request
from headrace_registry.domain.rollout import Rollout, ServedVersion
from headrace_registry.domain.version import ModelVersion, TrainedModel
from headrace_registry.ports import Answer, Event

LOCK = text("""
    insert into counters (name, value) values (:name, 0)
    on conflict (name) do update set value = counters.value
""")
COUNT = text("""
    insert into counters (name, value) values (:name, 1)
    on conflict (name) do update set value = counters.value + 1
    returning value
""")
CLAIM = text("""
    insert into requests (id, digest) values (:id, :digest) on conflict do nothing
""")
ALIAS_CREATE = text("""
    insert into aliases (model, alias, version, digest, generation, moved_at_us)
    values (:model, :alias, :version, :digest, 1, :moved_at_us) on conflict do nothing
""")
ALIAS_MOVE = text("""
    update aliases set version = :version, digest = :digest, generation = :generation,
                       moved_at_us = :moved_at_us
    where model = :model and alias = :alias and generation = :generation - 1
""")
ROLLOUT_CREATE = text("""
    insert into rollouts (endpoint, model, generation, champion_version, champion_digest,
                          canary_version, canary_digest, canary_percent, change, changed_at_us)
    values (:endpoint, :model, 1, :champion_version, :champion_digest,
            :canary_version, :canary_digest, :canary_percent, :change, :changed_at_us)
    on conflict do nothing
""")
ROLLOUT_MOVE = text("""
    update rollouts set generation = :generation,
                        champion_version = :champion_version, champion_digest = :champion_digest,
                        canary_version = :canary_version, canary_digest = :canary_digest,
                        canary_percent = :canary_percent,
                        change = :change, changed_at_us = :changed_at_us
    where endpoint = :endpoint and model = :model and generation = :generation - 1
""")
# Two replicas may save out of order: the further one is right, its effects are stored.
POSITION = text("""
    insert into positions (topic, partition, next_offset) values (:topic, :partition, :next_offset)
    on conflict (topic, partition) do update set next_offset = :next_offset
    where positions.next_offset < :next_offset
""")
TRAINED = TypeAdapter(TrainedModel)


class SqlRegistryStore:
    """RegistryStore on an engine of the kit; `committed` is called after each transaction."""

    def __init__(self, engine: Engine, outbox: Outbox, committed: Callable[[], None]) -> None:
        self._engine, self._outbox, self._committed = engine, outbox, committed

    @contextmanager
    def reading(self) -> Iterator[SqlReader]:
        with sql_transaction(self._engine) as connection:
            yield SqlReader(connection)

    @contextmanager
    def transaction(self) -> Iterator[SqlTransaction]:
        with sql_transaction(self._engine) as connection:
            yield SqlTransaction(connection, self._outbox)
            failpoint("registry.in_txn")
        self._committed()
        failpoint("registry.committed")

    def positions(self) -> Mapping[tuple[str, int], int]:
        with sql_transaction(self._engine) as connection:
            rows = connection.execute(select(tables.POSITIONS)).all()
        return {(row.topic, row.partition): row.next_offset for row in rows}

    def save_positions(self, next_offsets: Mapping[tuple[str, int], int]) -> None:
        with sql_transaction(self._engine) as connection:
            for (topic, partition), next_offset in next_offsets.items():
                connection.execute(
                    POSITION,
                    {"topic": topic, "partition": partition, "next_offset": next_offset},
                )


class SqlReader:
    """RegistryReader on a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def definitions(self) -> list[Definition]:
        table = tables.DEFINITIONS
        newest = select(table.c.kind, table.c.name, func.max(table.c.version)).group_by(
            table.c.kind, table.c.name
        )
        key = tuple_(table.c.kind, table.c.name, table.c.version)
        rows = self._connection.execute(select(table).where(key.in_(newest))).all()
        return sorted((Definition(**row._mapping) for row in rows), key=order_of)

    def version(self, model: str, version: int) -> ModelVersion:
        table = tables.VERSIONS
        found = self._versions(table.c.model == model, table.c.version == version)
        if not found:
            raise NotFound("VERSION_UNKNOWN", model=model, version=version)
        return found[0]

    def version_of_run(self, run_id: str) -> ModelVersion | None:
        found = self._versions(tables.VERSIONS.c.run_id == run_id)
        return found[0] if found else None

    def versions(self, model: str, *, below: int | None, limit: int) -> list[ModelVersion]:
        table = tables.VERSIONS
        older = [] if below is None else [table.c.version < below]
        return self._versions(table.c.model == model, *older, limit=limit)

    def aliases(self, model: str) -> dict[str, Alias]:
        table = tables.ALIASES
        wanted = select(table).where(table.c.model == model).order_by(table.c.alias)
        return {row.alias: Alias(**row._mapping) for row in self._connection.execute(wanted)}

    def rollouts(self) -> dict[str, Rollout]:
        wanted = select(tables.ROLLOUTS).order_by(tables.ROLLOUTS.c.endpoint)
        return {row.endpoint: self._rollout(row) for row in self._connection.execute(wanted).all()}

    def _rollout(self, row: Row[Any]) -> Rollout:
        canary = None
        if row.canary_version is not None:
            canary = self._served(row.model, row.canary_version)
        return Rollout(
            endpoint=row.endpoint,
            model=row.model,
            generation=row.generation,
            champion=self._served(row.model, row.champion_version),
            canary=canary,
            canary_percent=row.canary_percent,
            change=row.change,
            changed_at_us=row.changed_at_us,
        )

    def _served(self, model: str, version: int) -> ServedVersion:
        stored = self.version(model, version)
        return ServedVersion(version, stored.digest, stored.trained.features)

    def _versions(self, *where: Any, limit: int = 1) -> list[ModelVersion]:
        table = tables.VERSIONS
        wanted = select(table).where(*where).order_by(table.c.version.desc()).limit(limit)
        return [_version(row) for row in self._connection.execute(wanted)]


class SqlTransaction(SqlReader):
    """RegistryTransaction on a connection that has begun."""

    def __init__(self, connection: Connection, outbox: Outbox) -> None:
        super().__init__(connection)
        self._outbox = outbox

    def first_answer(self, request: Request, kind: type[Answer]) -> Answer | None:
        if self._connection.execute(CLAIM, asdict(request)).rowcount == 1:
            return None
        table = tables.REQUESTS
        row = self._connection.execute(select(table).where(table.c.id == request.id)).one()
        if row.digest != request.digest:
            raise Conflict("REQUEST_REUSED", request_id=request.id)
        return TypeAdapter(kind).validate_json(row.answer_json)

    def remember(self, request: Request, answer: Alias | AppliedDefinitions) -> None:
        table = tables.REQUESTS
        answered = table.update().where(table.c.id == request.id)
        self._connection.execute(answered.values(answer_json=json.dumps(asdict(answer))))

    def first_time(self, consumer: str, ce_id: str) -> bool:
        return Inbox(consumer).first_time(self._connection, ce_id)

    def lock_definitions(self) -> None:
        self._connection.execute(LOCK, {"name": "definitions"})

    def lock_model(self, model: str) -> None:
        self._connection.execute(LOCK, {"name": f"model/{model}"})

    def put_definition(self, definition: Definition) -> None:
        self._connection.execute(tables.DEFINITIONS.insert().values(asdict(definition)))
        self._emit(definition)

    def next_version(self, model: str) -> int:
        return int(self._connection.execute(COUNT, {"name": f"model/{model}"}).scalar_one())

    def add_version(self, version: ModelVersion) -> None:
        key = {"model": version.model, "version": version.version, "digest": version.digest}
        self._connection.execute(
            tables.VERSIONS.insert().values(
                **key,
                run_id=version.run_id,
                recipe=version.recipe,
                incident_id=version.incident_id,
                trained_json=json.dumps(asdict(version.trained), sort_keys=True),
                gate_passed=version.gate.passed,
                evidence_json=json.dumps(version.gate.evidence),
                registered_at_us=version.registered_at_us,
            )
        )
        if version.gate.passed:
            self._connection.execute(tables.PASSED_GATES.insert().values(key))
        self._emit(version)

    def swap(self, moved: Alias) -> None:
        row = asdict(moved)
        named = {each: row[each] for each in ("model", "alias", "version")}
        named["generation_expected"] = moved.generation - 1
        try:
            swapped = self._connection.execute(
                ALIAS_CREATE if moved.generation == 1 else ALIAS_MOVE, row
            )
        except IntegrityError as err:
            raise Conflict("GATE_NOT_PASSED", **named) from err
        if swapped.rowcount != 1:
            raise Conflict("ALIAS_MOVED", **named)
        self._connection.execute(tables.ALIAS_MOVES.insert().values(row))
        self._emit(moved)

    def put_rollout(self, rollout: Rollout) -> None:
        row = asdict(rollout)
        for role in ("champion", "canary"):
            served = row.pop(role) or {"version": None, "digest": None}
            row |= {f"{role}_version": served["version"], f"{role}_digest": served["digest"]}
        statement = ROLLOUT_CREATE if rollout.generation == 1 else ROLLOUT_MOVE
        if self._connection.execute(statement, row).rowcount != 1:
            raise Conflict("ROLLOUT_MOVED", endpoint=rollout.endpoint)
        self._emit(rollout)

    def _emit(self, event: Event) -> None:
        for message in messages_of(event):
            self._outbox.add(self._connection, message)


def _version(row: Row[Any]) -> ModelVersion:
    return ModelVersion(
        version=row.version,
        run_id=row.run_id,
        recipe=row.recipe,
        incident_id=row.incident_id,
        trained=TRAINED.validate_python(json.loads(row.trained_json)),
        gate=Gate(row.gate_passed, tuple(json.loads(row.evidence_json))),
        registered_at_us=row.registered_at_us,
    )

# SPDX-License-Identifier: Apache-2.0
"""RegistryStore on SQLite or PostgreSQL: state and event in one transaction, the event by outbox.

Each compare-and-set is one statement, its own comparison: there is no read that could go stale
before the write. What orders several statements is a row lock by name, taken first. What a move of
an alias runs is written once up here: to build a statement costs as much as to run it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import (
    Connection,
    Engine,
    Row,
    Select,
    bindparam,
    func,
    insert,
    select,
    text,
    tuple_,
)
from sqlalchemy.exc import IntegrityError

from headrace.errors import Conflict, NotFound
from headrace_kit.failpoints import failpoint
from headrace_kit.kafka import Message
from headrace_kit.outbox import Outbox
from headrace_kit.sql import Inbox
from headrace_kit.sql import transaction as sql_transaction
from headrace_kit.sql_writes import Write, insert_of, write_together
from headrace_kit.topic_positions import SqlPositions
from headrace_registry.adapters import sql_tables as tables
from headrace_registry.adapters.conversions import messages_of
from headrace_registry.domain.acceptance import Acceptance
from headrace_registry.domain.alias import Alias
from headrace_registry.domain.change import Change
from headrace_registry.domain.definition import (
    Definition,
    DefinitionRetracted,
    applied,
    order_of,
)
from headrace_registry.domain.description import Description
from headrace_registry.domain.gate import Gate, GateState
from headrace_registry.domain.lineage import sources_of
from headrace_registry.domain.request import Request
from headrace_registry.domain.rollout import Rollout, ServedVersion
from headrace_registry.domain.signature import Signature
from headrace_registry.domain.signing import Signing
from headrace_registry.domain.version import (
    GateOpened,
    ModelVersion,
    TrainedModel,
    VersionDescribed,
    VersionRetracted,
    VersionSigned,
)
from headrace_registry.ports import Answer, Answered, Event

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
                          canary_version, canary_digest, canary_percent, change, changed_at_us,
                          judged, stopped)
    values (:endpoint, :model, 1, :champion_version, :champion_digest,
            :canary_version, :canary_digest, :canary_percent, :change, :changed_at_us,
            :judged, :stopped)
    on conflict do nothing
""")
ROLLOUT_MOVE = text("""
    update rollouts set generation = :generation,
                        champion_version = :champion_version, champion_digest = :champion_digest,
                        canary_version = :canary_version, canary_digest = :canary_digest,
                        canary_percent = :canary_percent, judged = :judged, stopped = :stopped,
                        change = :change, changed_at_us = :changed_at_us
    where endpoint = :endpoint and model = :model and generation = :generation - 1
""")
ACCEPTED = text("""
    insert into acceptances (digest, acceptance_json) values (:digest, :acceptance_json)
    on conflict (digest) do update set acceptance_json = excluded.acceptance_json
""")
ANSWERED = "update requests set answer_json = :answer_json where id = :id"
# An application may have more; a move of an alias has one for itself and for each endpoint.
MESSAGES_TOGETHER_MAX = 8
VERSION = select(tables.VERSIONS).where(
    tables.VERSIONS.c.model == bindparam("model"), tables.VERSIONS.c.version == bindparam("version")
)
ACCEPTANCE = TypeAdapter(Acceptance)
TRAINED, SIGNATURE = TypeAdapter(TrainedModel), TypeAdapter(Signature)


SERVED_COLUMNS = ("trained_json", "signature_json")
SERVED_BY = {role: tables.VERSIONS.alias(f"{role}_versions") for role in ("champion", "canary")}
ROLLOUT_COLUMNS = (
    "endpoint", "model", "generation", "canary_percent", "change", "changed_at_us", "judged",
    "stopped",
)  # fmt: skip


def _rollouts() -> Select[Any]:
    """Each with what is to be known of the versions that it serves."""
    table, found = tables.ROLLOUTS, select(tables.ROLLOUTS).order_by(tables.ROLLOUTS.c.endpoint)
    for role, version in SERVED_BY.items():
        number = table.c[f"{role}_version"]
        of_version = (version.c.model == table.c.model) & (version.c.version == number)
        columns = [version.c[each].label(f"{role}_{each}") for each in SERVED_COLUMNS]
        found = found.add_columns(*columns).outerjoin(version, of_version)
    return found


ROLLOUTS = _rollouts()
ROLLOUTS_OF = ROLLOUTS.where(tables.ROLLOUTS.c.model == bindparam("model"))


class SqlRegistryStore:
    """RegistryStore on an engine of the kit; `committed` is called after each transaction."""

    def __init__(self, engine: Engine, outbox: Outbox, committed: Callable[[], None]) -> None:
        self._engine, self._outbox, self._committed = engine, outbox, committed
        self._positions = SqlPositions(tables.POSITIONS)

    @contextmanager
    def reading(self) -> Iterator[SqlReader]:
        with sql_transaction(self._engine) as connection:
            yield SqlReader(connection)

    @contextmanager
    def transaction(self) -> Iterator[SqlTransaction]:
        with sql_transaction(self._engine) as connection:
            transaction = SqlTransaction(connection)
            yield transaction
            messages, writes = transaction.messages, transaction.all_writes()
            if 0 < len(messages) <= MESSAGES_TOGETHER_MAX:
                writes.append(self._outbox.write(messages))
            else:
                self._outbox.add(connection, *messages)
            write_together(connection, writes)
            failpoint("registry.in_txn")
        self._committed()
        failpoint("registry.committed")

    def follow_topics(self, topic_ids: Mapping[str, str]) -> None:
        with sql_transaction(self._engine) as connection:
            self._positions.follow_topics(connection, topic_ids)

    def positions(self) -> Mapping[tuple[str, int], int]:
        with sql_transaction(self._engine) as connection:
            return self._positions.get(connection)

    def save_positions(self, next_offsets: Mapping[tuple[str, int], int]) -> None:
        with sql_transaction(self._engine) as connection:
            self._positions.save(connection, next_offsets)


class SqlReader:
    """RegistryReader on a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def definitions(self) -> list[Definition]:
        return applied(self.ever_applied())

    def ever_applied(self) -> list[Definition]:
        table = tables.DEFINITIONS
        newest = select(table.c.kind, table.c.name, func.max(table.c.version)).group_by(
            table.c.kind, table.c.name
        )
        key = tuple_(table.c.kind, table.c.name, table.c.version)
        rows = self._connection.execute(select(table).where(key.in_(newest))).all()
        return sorted((Definition(**row._mapping) for row in rows), key=order_of)

    def version(self, model: str, version: int) -> ModelVersion:
        row = self._connection.execute(VERSION, {"model": model, "version": version}).first()
        if row is None:
            raise NotFound("VERSION_UNKNOWN", model=model, version=version)
        return _version(row)

    def version_of_run(self, run_id: str) -> ModelVersion | None:
        found = self._versions(tables.VERSIONS.c.run_id == run_id)
        return found[0] if found else None

    def versions(self, model: str, *, below: int | None, limit: int) -> list[ModelVersion]:
        table = tables.VERSIONS
        older = [] if below is None else [table.c.version < below]
        return self._versions(table.c.model == model, *older, limit=limit)

    def acceptance(self, digest: str) -> Acceptance | None:
        table = tables.ACCEPTANCES
        wanted = select(table.c.acceptance_json).where(table.c.digest == digest)
        found = self._connection.execute(wanted).scalar()
        # Of before its latency was kept: it is looked through anew.
        if found is None or "latency_ms" not in json.loads(found):
            return None
        return ACCEPTANCE.validate_json(found)

    def versions_from(self, kind: str, name: str) -> list[tuple[str, int]]:
        table = tables.VERSION_SOURCES
        of_kind = [table.c.kind == kind] if kind else []
        wanted = select(table.c.model, table.c.version).where(table.c.name == name, *of_kind)
        return [(row.model, row.version) for row in self._connection.execute(wanted.distinct())]

    def source_names(self, kind: str, prefix: str, *, limit: int) -> list[str]:
        table = tables.VERSION_SOURCES
        of_kind = [table.c.kind == kind] if kind else []
        begins = table.c.name.startswith(prefix, autoescape=True)
        wanted = select(table.c.name).where(begins, *of_kind).distinct().limit(limit)
        return list(self._connection.execute(wanted).scalars())

    def newest_versions(self) -> dict[str, int]:
        table = tables.VERSIONS
        newest = select(table.c.model, func.max(table.c.version)).group_by(table.c.model)
        return {row[0]: row[1] for row in self._connection.execute(newest)}

    def aliases(self, model: str) -> dict[str, Alias]:
        table = tables.ALIASES
        wanted = select(table).where(table.c.model == model).order_by(table.c.alias)
        return {row.alias: Alias(**row._mapping) for row in self._connection.execute(wanted)}

    def alias_moves(self, model: str, alias: str, *, below: int | None, limit: int) -> list[Alias]:
        table = tables.ALIAS_MOVES
        older = [] if below is None else [table.c.generation < below]
        wanted = select(table).where(table.c.model == model, table.c.alias == alias, *older)
        newest = wanted.order_by(table.c.generation.desc()).limit(limit)
        return [Alias(**row._mapping) for row in self._connection.execute(newest)]

    def changes(self, model: str, *, below: int | None, limit: int) -> list[Change]:
        table = tables.CHANGES
        of_model = [] if not model else [table.c.model == model]
        older = [] if below is None else [table.c.number < below]
        newest = select(table).where(*of_model, *older).order_by(table.c.number.desc())
        return [Change(**row._mapping) for row in self._connection.execute(newest.limit(limit))]

    def rollouts(self) -> dict[str, Rollout]:
        return {row.endpoint: _rollout(row) for row in self._connection.execute(ROLLOUTS)}

    def rollouts_of(self, model: str) -> dict[str, Rollout]:
        found = self._connection.execute(ROLLOUTS_OF, {"model": model})
        return {row.endpoint: _rollout(row) for row in found}

    def _versions(self, *where: Any, limit: int = 1) -> list[ModelVersion]:
        table = tables.VERSIONS
        wanted = select(table).where(*where).order_by(table.c.version.desc()).limit(limit)
        return [_version(row) for row in self._connection.execute(wanted)]


class SqlTransaction(SqlReader):
    """RegistryTransaction on a connection that has begun; its end sends `writes` and `messages`."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.messages: list[Message] = []
        self.writes: list[Write] = []
        self._changes: list[dict[str, Any]] = []

    def all_writes(self) -> list[Write]:
        """PostgreSQL makes them in any order: changes, whose numbers tell theirs, are one."""
        changes = [insert_of(tables.CHANGES.name, self._changes)] if self._changes else []
        return [*self.writes, *changes]

    def first_answer(self, request: Request, kind: type[Answer]) -> Answer | None:
        claim = {"id": request.id, "digest": request.digest}
        if self._connection.execute(CLAIM, claim).rowcount == 1:
            return None
        table = tables.REQUESTS
        row = self._connection.execute(select(table).where(table.c.id == request.id)).one()
        if row.digest != request.digest:
            raise Conflict("REQUEST_REUSED", request_id=request.id)
        return TypeAdapter(kind).validate_json(row.answer_json)

    def remember(self, request: Request, answer: Answered) -> None:
        answered = {"id": request.id, "answer_json": json.dumps(asdict(answer))}
        self.writes.append(Write(ANSWERED, answered))

    def first_time(self, consumer: str, ce_id: str) -> bool:
        return Inbox(consumer).first_time(self._connection, ce_id)

    def lock_definitions(self) -> None:
        self._connection.execute(LOCK, {"name": "definitions"})

    def lock_model(self, model: str) -> None:
        self._connection.execute(LOCK, {"name": f"model/{model}"})

    def note(self, change: Change) -> None:
        row = {name: value for name, value in asdict(change).items() if name != "number"}
        self._changes.append(row)

    def put_definition(self, definition: Definition) -> None:
        self._connection.execute(tables.DEFINITIONS.insert().values(asdict(definition)))
        self._emit(definition)

    def retract_definition(self, retracted: DefinitionRetracted) -> None:
        table, one = tables.DEFINITIONS, retracted.definition
        key = (table.c.kind == one.kind) & (table.c.name == one.name)
        of_version = key & (table.c.version == one.version)
        self._connection.execute(table.update().where(of_version).values(retracted=True))
        self._emit(retracted)

    def add_acceptance(self, digest: str, acceptance: Acceptance) -> None:
        row = {"digest": digest, "acceptance_json": json.dumps(asdict(acceptance))}
        self._connection.execute(ACCEPTED, row)

    def next_version(self, model: str) -> int:
        return int(self._connection.execute(COUNT, {"name": f"model/{model}"}).scalar_one())

    def add_version(self, version: ModelVersion) -> None:
        self._connection.execute(
            tables.VERSIONS.insert().values(
                model=version.model,
                version=version.version,
                digest=version.digest,
                run_id=version.run_id or None,
                recipe=version.recipe,
                incident_id=version.incident_id,
                trained_json=json.dumps(asdict(version.trained), sort_keys=True),
                registered_at_us=version.registered_at_us,
                signature_json=json.dumps(asdict(version.signature)),
                **_gate_columns(version.gate),
                **asdict(version.signing),
                **_description_columns(version.description),
            )
        )
        of_version = {"model": version.model, "version": version.version}
        sources = [asdict(each) | of_version for each in sources_of(version)]
        self._connection.execute(insert(tables.VERSION_SOURCES), sources)
        if version.gate.passed:
            self._pass_gate(version)
        self._emit(version)

    def open_gate(self, version: ModelVersion) -> None:
        self._change(version, _gate_columns(version.gate))
        self._pass_gate(version)
        self._emit(GateOpened(version))

    def retract_version(self, version: ModelVersion) -> None:
        gates = tables.PASSED_GATES
        of_version = (gates.c.model == version.model) & (gates.c.version == version.version)
        try:
            self._connection.execute(gates.delete().where(of_version))
        except IntegrityError as err:
            named = {"model": version.model, "version": version.version}
            raise Conflict("VERSION_NEEDED", **named) from err
        self._change(version, _gate_columns(version.gate))
        self._emit(VersionRetracted(version))

    def describe(self, version: ModelVersion) -> None:
        self._change(version, _description_columns(version.description))
        self._emit(VersionDescribed(version))

    def sign(self, version: ModelVersion) -> None:
        self._change(version, {**_gate_columns(version.gate), **asdict(version.signing)})
        self._emit(VersionSigned(version))

    def _change(self, version: ModelVersion, columns: Mapping[str, object]) -> None:
        table = tables.VERSIONS
        of_version = (table.c.model == version.model) & (table.c.version == version.version)
        self._connection.execute(table.update().where(of_version).values(columns))

    def _pass_gate(self, version: ModelVersion) -> None:
        key = {"model": version.model, "version": version.version, "digest": version.digest}
        self._connection.execute(tables.PASSED_GATES.insert().values(key))

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
        self.writes.append(insert_of(tables.ALIAS_MOVES.name, [row]))
        self._emit(moved)

    def put_rollout(self, rollout: Rollout) -> None:
        row = {name: getattr(rollout, name) for name in ROLLOUT_COLUMNS}
        for role, served in (("champion", rollout.champion), ("canary", rollout.canary)):
            row[f"{role}_version"] = None if served is None else served.version
            row[f"{role}_digest"] = None if served is None else served.digest
        statement = ROLLOUT_CREATE if rollout.generation == 1 else ROLLOUT_MOVE
        if self._connection.execute(statement, row).rowcount != 1:
            raise Conflict("ROLLOUT_MOVED", endpoint=rollout.endpoint)
        self._emit(rollout)

    def _emit(self, event: Event) -> None:
        self.messages += messages_of(event)


def _rollout(row: Row[Any]) -> Rollout:
    champion, canary = _served(row, "champion"), _served(row, "canary")
    assert champion is not None  # noqa: S101 (its column takes no null)
    return Rollout(
        champion=champion, canary=canary, **{name: getattr(row, name) for name in ROLLOUT_COLUMNS}
    )


def _served(row: Row[Any], role: str) -> ServedVersion | None:
    columns = row._mapping
    if columns[f"{role}_version"] is None:
        return None
    return ServedVersion(
        version=columns[f"{role}_version"],
        digest=columns[f"{role}_digest"],
        features=tuple(json.loads(columns[f"{role}_trained_json"])["features"]),
        signature=SIGNATURE.validate_json(columns[f"{role}_signature_json"]),
    )


def _version(row: Row[Any]) -> ModelVersion:
    return ModelVersion(
        version=row.version,
        run_id=row.run_id or "",
        recipe=row.recipe,
        incident_id=row.incident_id,
        trained=TRAINED.validate_python(json.loads(row.trained_json)),
        gate=Gate(GateState(row.gate_state), tuple(json.loads(row.evidence_json)), row.approver),
        registered_at_us=row.registered_at_us,
        signature=SIGNATURE.validate_json(row.signature_json),
        description=Description(json.loads(row.tags_json), row.card, row.description_changes),
        signing=Signing(row.bundle_digest, row.signer, row.signings),
    )


def _gate_columns(gate: Gate) -> dict[str, object]:
    return {
        "gate_state": gate.state.value,
        "evidence_json": json.dumps(gate.evidence),
        "approver": gate.approver,
    }


def _description_columns(description: Description) -> dict[str, object]:
    return {
        "tags_json": json.dumps(dict(description.tags), sort_keys=True),
        "card": description.card,
        "description_changes": description.changes,
    }

# SPDX-License-Identifier: Apache-2.0
"""RunStore on SQLite or PostgreSQL: one row a run, its event by outbox in the same transaction.

A claim is one conditional update, and it raises the token. Every later write of the holder names
its token, so a worker that was thought dead can write nothing once another has the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from headrace.errors import Conflict, NotFound
from headrace_kit.clock import Clock
from headrace_kit.outbox import Outbox
from headrace_kit.sql import transaction
from headrace_kit.sql_migrations import Migrations
from headrace_kit.topic_positions import SqlPositions
from headrace_trainer import migrations
from headrace_trainer.adapters.conversions import event_of, trained_from_bytes, trained_to_proto
from headrace_trainer.domain.run import (
    LEASE_S,
    RUN_CANCELLED,
    Lease,
    Run,
    RunState,
    TrainedModel,
    TrainingRequest,
    queued_run,
)

METADATA = MetaData()
RUNS = Table(
    "runs",
    METADATA,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("run_id", String, unique=True, nullable=False),
    Column("recipe", String, nullable=False),
    Column("known_until_us", BigInteger, nullable=False),
    Column("incident_id", String, nullable=False),
    Column("state", String, nullable=False),
    Column("progress", String, nullable=False, default=""),
    Column("reason", String, nullable=False, default=""),
    Column("trained", LargeBinary),
    Column("token", BigInteger, nullable=False, default=0),
    Column("lease_until_us", BigInteger, nullable=False, default=0),
    Column("asked_until_us", BigInteger, nullable=False),  # as in the request: 0 means now
    Column("next_try_us", BigInteger, nullable=False),
    Column("detail", String, nullable=False, default=""),
    sqlite_autoincrement=True,
)
POSITIONS = Table(
    "positions",
    METADATA,
    Column("topic", String, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("topic_id", String, nullable=False, server_default=""),
)
# A change of a table comes with the revision that brings the old one to it, and back.
MIGRATIONS = Migrations(Path(migrations.__file__).parent)


class SqlRunStore:
    """`notify` is called after a transaction that left an event in the outbox.

    `clock`: of all who share the database. It is asked outside of a transaction: it may need one.
    """

    def __init__(
        self, engine: Engine, *, clock: Clock, notify: Callable[[], None] = lambda: None
    ) -> None:
        self._engine, self._clock, self._notify = engine, clock, notify
        self._outbox, self._positions = Outbox(), SqlPositions(POSITIONS)

    def add(self, request: TrainingRequest) -> Run:
        now_us = self._clock.now_us()
        run = queued_run(request, now_us)
        row = {
            "run_id": run.run_id,
            "recipe": request.recipe,
            "known_until_us": run.known_until_us,
            "asked_until_us": request.known_until_us,
            "incident_id": request.incident_id,
            "state": run.state,
            "next_try_us": now_us,
        }
        try:
            with transaction(self._engine) as connection:
                connection.execute(insert(RUNS).values(row))
        except IntegrityError:
            known = self.get(request.request_id)
            if known.request != request:
                raise Conflict("REQUEST_REUSED", request_id=request.request_id) from None
            return known
        return run

    def get(self, run_id: str) -> Run:
        with transaction(self._engine) as connection:
            row = connection.execute(select(RUNS).where(RUNS.c.run_id == run_id)).first()
        if row is None:
            raise NotFound("RUN_UNKNOWN", run_id=run_id)
        return _run(row)

    def newest(self, runs_max: int) -> list[Run]:
        with transaction(self._engine) as connection:
            rows = connection.execute(select(RUNS).order_by(RUNS.c.number.desc()).limit(runs_max))
            return [_run(row) for row in rows]

    def newest_of(self, recipe: str, *, prefix: str) -> Run | None:
        wanted = (RUNS.c.recipe == recipe) & RUNS.c.run_id.startswith(prefix, autoescape=True)
        newest = select(RUNS).where(wanted).order_by(RUNS.c.number.desc()).limit(1)
        with transaction(self._engine) as connection:
            row = connection.execute(newest).first()
        return _run(row) if row is not None else None

    def claim(self) -> tuple[Lease, Run] | None:
        now_us = self._clock.now_us()
        due = or_(
            (RUNS.c.state == RunState.QUEUED) & (RUNS.c.next_try_us <= now_us),
            (RUNS.c.state == RunState.RUNNING) & (RUNS.c.lease_until_us < now_us),
        )
        with transaction(self._engine) as connection:
            row = connection.execute(
                select(RUNS)
                .where(due)
                .order_by(RUNS.c.next_try_us, RUNS.c.number)
                .limit(1)
                .with_for_update(skip_locked=True)
            ).first()
            if row is None:
                return None
            lease = Lease(row.run_id, row.token + 1)
            run = replace(_run(row), state=RunState.RUNNING, progress="")
            connection.execute(
                update(RUNS)
                .where(RUNS.c.run_id == row.run_id)
                .values(
                    state=RunState.RUNNING,
                    progress="",
                    token=lease.token,
                    lease_until_us=now_us + LEASE_S * 1_000_000,
                    next_try_us=now_us,
                )
            )
            self._outbox.add(connection, event_of(run))
        self._notify()
        return lease, run

    def renew(self, lease: Lease, progress: str) -> bool:
        values = {
            "progress": progress,
            "lease_until_us": self._clock.now_us() + LEASE_S * 1_000_000,
        }
        with transaction(self._engine) as connection:
            return self._write(connection, lease, values)

    def complete(self, lease: Lease, trained: TrainedModel) -> bool:
        stored = trained_to_proto(trained).SerializeToString()
        values = {"state": RunState.COMPLETED, "progress": "completed", "trained": stored}
        return self._end(lease, values)

    def fail(self, lease: Lease, reason: str, detail: str) -> bool:
        values = {"state": RunState.FAILED, "progress": "failed"}
        return self._end(lease, values | {"reason": reason, "detail": detail})

    def postpone(self, lease: Lease, delay_s: int, progress: str) -> bool:
        next_try_us = self._clock.now_us() + delay_s * 1_000_000
        values = {"state": RunState.QUEUED, "progress": progress, "next_try_us": next_try_us}
        with transaction(self._engine) as connection:
            return self._write(connection, lease, values)

    def cancel(self, run_id: str) -> Run:
        values = {"state": RunState.FAILED, "progress": "cancelled", "reason": RUN_CANCELLED}
        unended = RUNS.c.state.in_([RunState.QUEUED, RunState.RUNNING])
        with transaction(self._engine) as connection:
            ending = update(RUNS).where((RUNS.c.run_id == run_id) & unended).values(values)
            ended = connection.execute(ending).rowcount == 1
            row = connection.execute(select(RUNS).where(RUNS.c.run_id == run_id)).first()
            if row is None:
                raise NotFound("RUN_UNKNOWN", run_id=run_id)
            run = _run(row)
            if ended:
                self._outbox.add(connection, event_of(run))
        if not run.cancelled:
            raise Conflict("RUN_ENDED", run_id=run_id, state=run.state)
        self._notify()
        return run

    def follow_topics(self, topic_ids: Mapping[str, str]) -> None:
        with transaction(self._engine) as connection:
            self._positions.follow_topics(connection, topic_ids)

    def positions(self) -> Mapping[tuple[str, int], int]:
        with transaction(self._engine) as connection:
            return self._positions.get(connection)

    def save_positions(self, next_offsets: Mapping[tuple[str, int], int]) -> None:
        with transaction(self._engine) as connection:
            self._positions.save(connection, next_offsets)

    def _end(self, lease: Lease, values: dict[str, Any]) -> bool:
        with transaction(self._engine) as connection:
            if not self._write(connection, lease, values):
                return False
            row = connection.execute(select(RUNS).where(RUNS.c.run_id == lease.run_id)).one()
            self._outbox.add(connection, event_of(_run(row)))
        self._notify()
        return True

    def _write(self, connection: Connection, lease: Lease, values: dict[str, Any]) -> bool:
        """The lease is in the statement's own condition, so nothing can slip between."""
        held = (RUNS.c.run_id == lease.run_id) & (RUNS.c.token == lease.token)
        running = RUNS.c.state == RunState.RUNNING
        done = connection.execute(update(RUNS).where(held & running).values(values))
        return done.rowcount == 1


def _run(row: Any) -> Run:
    return Run(
        request=TrainingRequest(row.run_id, row.recipe, row.asked_until_us, row.incident_id),
        known_until_us=row.known_until_us,
        state=RunState(row.state),
        progress=row.progress or "",
        reason=row.reason or "",
        detail=row.detail,
        trained=trained_from_bytes(row.trained) if row.trained else None,
    )

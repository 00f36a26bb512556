# SPDX-License-Identifier: Apache-2.0
"""TaskStore on SQLite or PostgreSQL: a task's row is locked by whoever changes what belongs to it.

A claim counts the answers and the leases that are alive after the row is locked, so that no two
labellers take the same place. The accepted label leaves by the outbox, in the same transaction.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    tuple_,
    update,
)

from headrace.errors import Conflict, NotFound
from headrace_ingest.domain.label_tasks import Item, Settled, Task, TaskState
from headrace_ingest.migrations import labels
from headrace_kit.clock import Clock
from headrace_kit.kafka import Message
from headrace_kit.outbox import Outbox
from headrace_kit.sql import insert_into, transaction, wipe_journal
from headrace_kit.sql_migrations import Migrations
from headrace_kit.topic_positions import SqlPositions

SECOND_US = 1_000_000
# A task that nobody settled, and what people said of a settled one, is forgotten then.
KEEP_US = 90 * 86_400 * SECOND_US
# No index tells the old ones: they are looked for no more often.
FORGET_INTERVAL_US = 3_600 * SECOND_US
CANDIDATES_MAX = 20
AGREEMENT_TASKS_MAX = 10_000
METADATA = MetaData()
TASKS = Table(
    "label_tasks",
    METADATA,
    Column("task_id", String, primary_key=True),
    Column("label", String, nullable=False),
    Column("prediction_id", String, nullable=False),
    Column("target", String, nullable=False),
    Column("as_of_us", BigInteger, nullable=False),
    Column("version", Integer, nullable=False),
    Column("score", Float, nullable=False),
    Column("rule", String, nullable=False),
    Column("wanted", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("value", String, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Index("label_tasks_in_order", "label", "state", "created_us", "task_id"),
)
# A choice of none: the labeller has skipped the task.
ANSWERS = Table(
    "label_answers",
    METADATA,
    Column("task_id", String, primary_key=True),
    Column("labeller", String, primary_key=True),
    Column("choice", String),
)
LEASES = Table(
    "label_leases",
    METADATA,
    Column("task_id", String, primary_key=True),
    Column("labeller", String, primary_key=True),
    Column("until_us", BigInteger, nullable=False),
)
# `logged`: JSON of an `Item` without its entity.
ITEMS = Table(
    "label_items",
    METADATA,
    Column("task_id", String, primary_key=True),
    Column("entity", String, nullable=False),
    Column("logged", String, nullable=False),
)
# Of predictions about these, as of `until_us` or before, no item is kept.
ERASED = Table(
    "label_erased_entities",
    METADATA,
    Column("entity", String, primary_key=True),
    Column("until_us", BigInteger, nullable=False),
    Column("noted_us", BigInteger, nullable=False),
)
POSITIONS = Table(
    "label_positions",
    METADATA,
    Column("topic", String, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("topic_id", String, nullable=False, server_default=""),
)
# A change of a table comes with the revision that brings the old one to it, and back.
MIGRATIONS = Migrations(Path(labels.__file__).parent)
_FIELDS = [column for column in TASKS.c if column.name != "created_us"]


class SqlTaskStore:
    """`notify` is called after a transaction that left a message in the outbox.

    `clock`: that of the database, for a lease is judged by whichever process is asked.
    """

    def __init__(
        self, engine: Engine, *, clock: Clock, notify: Callable[[], None] = lambda: None
    ) -> None:
        self._engine, self._clock, self._notify = engine, clock, notify
        self._outbox, self._positions = Outbox(), SqlPositions(POSITIONS)
        self._forget_at_us = 0

    def follow_topics(self, topic_ids: Mapping[str, str]) -> None:
        with transaction(self._engine) as connection:
            self._positions.follow_topics(connection, topic_ids)

    def positions(self) -> Mapping[tuple[str, int], int]:
        with transaction(self._engine) as connection:
            return self._positions.get(connection)

    def add(
        self,
        tasks: Sequence[tuple[Task, Item]],
        open_max: Mapping[str, int],
        positions: Mapping[tuple[str, int], int],
    ) -> int:
        now_us, added = self._clock.now_us(), 0
        by_label: dict[str, list[tuple[Task, Item]]] = defaultdict(list)
        for task, item in tasks:
            by_label[task.label].append((task, item))
        with transaction(self._engine) as connection:
            self._forget(connection, now_us)
            for label, some in by_label.items():
                room = max(0, open_max[label] - _open(connection, label))
                added += _insert(connection, some[:room], now_us)
            self._positions.save(connection, positions)
        return added

    def listed(
        self, label: str, state: TaskState, *, after: tuple[int, str], tasks_max: int
    ) -> list[tuple[int, Task]]:
        order = (TASKS.c.created_us, TASKS.c.task_id)
        wanted = (TASKS.c.label == label) & (TASKS.c.state == state)
        query = (
            select(TASKS)
            .where(wanted & (tuple_(*order) > tuple_(*map(literal, after))))
            .order_by(*order)
            .limit(tasks_max)
        )
        with transaction(self._engine) as connection:
            return [(row.created_us, _task(row)) for row in connection.execute(query)]

    def claim(self, label: str, labeller: str, *, lease_s: int) -> Task | None:
        now_us = self._clock.now_us()
        passed: list[str] = []
        with transaction(self._engine) as connection:
            while len(passed) < CANDIDATES_MAX:
                row = connection.execute(_candidate(label, labeller, passed)).first()
                if row is None:
                    return None
                if _taken(connection, row.task_id, labeller, now_us) < row.wanted:
                    _lease(connection, row.task_id, labeller, now_us + lease_s * SECOND_US)
                    return _task(row)
                passed.append(row.task_id)
        return None

    def get(self, task_id: str) -> Task:
        with transaction(self._engine) as connection:
            return _get(connection, select(TASKS).where(TASKS.c.task_id == task_id), task_id)

    def submit(
        self,
        task_id: str,
        labeller: str,
        choice: str,
        settle: Callable[[Sequence[str], int], Settled],
        message: Callable[[Task], Message],
        *,
        claimed: bool,
    ) -> tuple[Task, bool]:
        now_us = self._clock.now_us()
        with transaction(self._engine) as connection:
            task = self._locked(connection, task_id)
            said = connection.execute(_said(task_id, labeller)).first()
            if said is not None and said.choice is not None:
                if said.choice != choice:
                    raise Conflict("TASK_ANSWERED", task_id=task_id, labeller=labeller)
                return task, False
            if task.state != TaskState.OPEN:
                raise Conflict("TASK_SETTLED", task_id=task_id)
            if claimed:
                _end_lease(connection, task_id, labeller, now_us)
            _say(connection, task_id, labeller, choice)
            settled = settle(_choices(connection, task_id), task.wanted)
            task = _settle(connection, task, settled)
            if task.state == TaskState.ACCEPTED:
                self._outbox.add(connection, message(task))
        self._notify()
        return task, True

    def skip(self, task_id: str, labeller: str) -> None:
        now_us = self._clock.now_us()
        with transaction(self._engine) as connection:
            self._locked(connection, task_id)
            said = connection.execute(_said(task_id, labeller)).first()
            if said is not None and said.choice is None:
                return  # once more: its answer may have been lost
            # The lease of who answered elsewhere meanwhile may still last.
            if said is not None:
                raise Conflict("LEASE_LOST", task_id=task_id, labeller=labeller)
            _end_lease(connection, task_id, labeller, now_us)
            _say(connection, task_id, labeller, None)

    def answers_of(self, task_ids: Collection[str]) -> Mapping[str, list[tuple[str, str]]]:
        given = ANSWERS.c.task_id.in_(task_ids) & ANSWERS.c.choice.is_not(None)
        query = select(ANSWERS).where(given).order_by(ANSWERS.c.labeller)
        by_task: dict[str, list[tuple[str, str]]] = defaultdict(list)
        with transaction(self._engine) as connection:
            for row in connection.execute(query):
                by_task[row.task_id].append((row.labeller, row.choice))
        return by_task

    def items_of(self, task_ids: Collection[str]) -> Mapping[str, Item]:
        query = select(ITEMS).where(ITEMS.c.task_id.in_(task_ids))
        with transaction(self._engine) as connection:
            return {row.task_id: _item(row) for row in connection.execute(query)}

    def answers(self, label: str) -> list[list[str]]:
        newest = (
            select(TASKS.c.task_id)
            .where(TASKS.c.label == label)
            .order_by(TASKS.c.created_us.desc())
            .limit(AGREEMENT_TASKS_MAX)
        )
        query = select(ANSWERS).where(ANSWERS.c.task_id.in_(newest) & ANSWERS.c.choice.is_not(None))
        by_task: dict[str, list[str]] = defaultdict(list)
        with transaction(self._engine) as connection:
            for row in connection.execute(query):
                by_task[row.task_id].append(row.choice)
        return list(by_task.values())

    def counts(self, label: str) -> Mapping[TaskState, int]:
        query = (
            select(TASKS.c.state, func.count())
            .where(TASKS.c.label == label)
            .group_by(TASKS.c.state)
        )
        with transaction(self._engine) as connection:
            return {TaskState(state): count for state, count in connection.execute(query)}

    def targets(self, label: str, *, after: str, targets_max: int) -> list[str]:
        query = (
            select(TASKS.c.target)
            .where((TASKS.c.label == label) & (TASKS.c.target > after))
            .distinct()
            .order_by(TASKS.c.target)
            .limit(targets_max)
        )
        with transaction(self._engine) as connection:
            return list(connection.execute(query).scalars())

    def erase(self, label: str, targets: Collection[str], *, until_us: int) -> int:
        own = (TASKS.c.label == label) & TASKS.c.target.in_(targets)
        ids = select(TASKS.c.task_id).where(own & (TASKS.c.as_of_us <= until_us))
        with transaction(self._engine) as connection:
            return _delete(connection, ids)

    def note_erased(self, entities: Collection[str], *, until_us: int) -> None:
        now_us = self._clock.now_us()
        # In order: of two that note the same ones neither waits for the other for ever.
        rows = [
            {"entity": each, "until_us": until_us, "noted_us": now_us} for each in sorted(entities)
        ]
        if not rows:
            return
        with transaction(self._engine) as connection:
            later = insert_into(connection, ERASED).on_conflict_do_update(
                index_elements=["entity"],
                set_={"until_us": until_us, "noted_us": now_us},
                where=ERASED.c.until_us < until_us,
            )
            connection.execute(later, rows)

    def erase_items(self, *, until_us: int) -> None:
        noted = select(ERASED.c.entity).where(ERASED.c.until_us == until_us)
        then = select(TASKS.c.task_id).where(TASKS.c.as_of_us <= until_us)
        own = ITEMS.c.entity.in_(noted) & ITEMS.c.task_id.in_(then)
        with transaction(self._engine) as connection:
            connection.execute(delete(ITEMS).where(own))
        wipe_journal(self._engine)

    def _locked(self, connection: Connection, task_id: str) -> Task:
        """The open task, held until the transaction ends."""
        return _get(
            connection, select(TASKS).where(TASKS.c.task_id == task_id).with_for_update(), task_id
        )

    def _forget(self, connection: Connection, now_us: int) -> None:
        if now_us < self._forget_at_us:
            return
        old = select(TASKS.c.task_id).where(TASKS.c.created_us < now_us - KEEP_US)
        _delete(connection, old)
        connection.execute(delete(ERASED).where(ERASED.c.noted_us < now_us - KEEP_US))
        self._forget_at_us = now_us + FORGET_INTERVAL_US


def _delete(connection: Connection, task_ids: Select[Any]) -> int:
    """Tasks with all that was said of them; how many."""
    for table in (ANSWERS, LEASES, ITEMS):
        connection.execute(delete(table).where(table.c.task_id.in_(task_ids)))
    return connection.execute(delete(TASKS).where(TASKS.c.task_id.in_(task_ids))).rowcount


def _open(connection: Connection, label: str) -> int:
    wanted = (TASKS.c.label == label) & (TASKS.c.state == TaskState.OPEN)
    return int(connection.execute(select(func.count()).where(wanted)).scalar_one())


def _insert(connection: Connection, tasks: Sequence[tuple[Task, Item]], now_us: int) -> int:
    """Those that are new: a prediction's task has one id."""
    added = 0
    for task, item in tasks:
        row = {name: getattr(task, name) for name in _names()} | {"created_us": now_us}
        new = insert_into(connection, TASKS).values(row).on_conflict_do_nothing()
        if connection.execute(new.execution_options(preserve_rowcount=True)).rowcount:
            if not _erased(connection, item.entity, task.as_of_us):
                connection.execute(insert(ITEMS).values(_item_row(task, item)))
            added += 1
    return added


def _erased(connection: Connection, entity: str, as_of_us: int) -> bool:
    noted = (ERASED.c.entity == entity) & (ERASED.c.until_us >= as_of_us)
    return bool(connection.execute(select(exists().where(noted))).scalar_one())


def _item_row(task: Task, item: Item) -> dict[str, str]:
    logged = asdict(item)
    return {"task_id": task.task_id, "entity": logged.pop("entity"), "logged": json.dumps(logged)}


def _item(row: Any) -> Item:
    logged = json.loads(row.logged)
    return Item(**{**logged, "features": tuple(logged["features"])}, entity=row.entity)


def _names() -> Collection[str]:
    return [column.name for column in _FIELDS]


def _candidate(label: str, labeller: str, passed: Sequence[str]) -> Select[Any]:
    """The oldest open task that this labeller has neither answered nor skipped."""
    said = exists().where((ANSWERS.c.task_id == TASKS.c.task_id) & (ANSWERS.c.labeller == labeller))
    wanted = (TASKS.c.label == label) & (TASKS.c.state == TaskState.OPEN)
    return (
        select(TASKS)
        .where(wanted & ~said & TASKS.c.task_id.not_in(passed))
        .order_by(TASKS.c.created_us, TASKS.c.task_id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )


def _taken(connection: Connection, task_id: str, labeller: str, now_us: int) -> int:
    """Places that answers and leases of others hold."""
    leases = (LEASES.c.task_id == task_id) & (LEASES.c.labeller != labeller)
    alive = select(func.count()).select_from(LEASES).where(leases & (LEASES.c.until_us > now_us))
    held = connection.execute(alive).scalar_one()
    return int(held) + len(_choices(connection, task_id))


def _choices(connection: Connection, task_id: str) -> list[str]:
    given = (ANSWERS.c.task_id == task_id) & ANSWERS.c.choice.is_not(None)
    return list(connection.execute(select(ANSWERS.c.choice).where(given)).scalars())


def _lease(connection: Connection, task_id: str, labeller: str, until_us: int) -> None:
    new = insert_into(connection, LEASES).values(
        task_id=task_id, labeller=labeller, until_us=until_us
    )
    connection.execute(
        new.on_conflict_do_update(
            index_elements=["task_id", "labeller"], set_={"until_us": until_us}
        )
    )


def _end_lease(connection: Connection, task_id: str, labeller: str, now_us: int) -> None:
    """Raises Conflict LEASE_LOST unless the labeller holds the task now."""
    held = (LEASES.c.task_id == task_id) & (LEASES.c.labeller == labeller)
    alive = held & (LEASES.c.until_us > now_us)
    if connection.execute(delete(LEASES).where(alive)).rowcount != 1:
        raise Conflict("LEASE_LOST", task_id=task_id, labeller=labeller)


def _say(connection: Connection, task_id: str, labeller: str, choice: str | None) -> None:
    """In place of a skip, where there is one."""
    new = insert_into(connection, ANSWERS).values(task_id=task_id, labeller=labeller, choice=choice)
    connection.execute(
        new.on_conflict_do_update(index_elements=["task_id", "labeller"], set_={"choice": choice})
    )


def _said(task_id: str, labeller: str) -> Select[Any]:
    return select(ANSWERS).where((ANSWERS.c.task_id == task_id) & (ANSWERS.c.labeller == labeller))


def _get(connection: Connection, query: Select[Any], task_id: str) -> Task:
    # PostgreSQL takes no zero byte in a text, and no id of a task has one.
    row = None if "\0" in task_id else connection.execute(query).first()
    if row is None:
        raise NotFound("TASK_UNKNOWN", task_id=task_id[:64])
    return _task(row)


def _settle(connection: Connection, task: Task, settled: Settled) -> Task:
    values = {"state": settled.state, "wanted": settled.wanted, "value": settled.value}
    connection.execute(update(TASKS).where(TASKS.c.task_id == task.task_id).values(values))
    row = connection.execute(select(TASKS).where(TASKS.c.task_id == task.task_id)).one()
    return _task(row)


def _task(row: Any) -> Task:
    values = {name: getattr(row, name) for name in _names()}
    return Task(**{**values, "state": TaskState(row.state)})

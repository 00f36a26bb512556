# SPDX-License-Identifier: Apache-2.0
"""The tables of a service, made or brought up to date at its start, by one replica at a time.

A database knows the version of its tables, so that a service older than its tables refuses them,
and a newer one takes the steps in between. All of it is one transaction.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Column, Connection, Engine, Integer, MetaData, Table, inspect, text
from sqlalchemy.schema import CreateSchema

from headrace.errors import Unavailable
from headrace_kit.sql import METADATA, transaction

# Without the lock two replicas on an empty PostgreSQL would both create, and one would fail.
PREPARATION_LOCK = text("select pg_advisory_xact_lock(hashtextextended('headrace schema', 0))")
VERSION = Table("schema_version", METADATA, Column("version", Integer, primary_key=True))


@dataclass(frozen=True, slots=True)
class Schema:
    """Tables as they are now; `steps[n]` are the statements from version n + 1 to n + 2."""

    tables: MetaData
    steps: tuple[tuple[str, ...], ...] = ()

    @property
    def version(self) -> int:
        return 1 + len(self.steps)


class Database:
    """The database answers and has the tables of `schema`; a Part, before those that use it."""

    def __init__(self, engine: Engine, schema: Schema) -> None:
        self._engine, self._schema = engine, schema

    def start(self) -> None:
        """Raises what `prepare` raises."""
        prepare(self._engine, self._schema)

    def stop(self, timeout_s: float) -> None:
        self._engine.dispose()

    def failed(self) -> BaseException | None:
        return None


def prepare(engine: Engine, schema: Schema) -> None:
    """Makes the tables of `schema`, outbox and inbox, or brings older ones up to them.

    Raises Unavailable DATABASE_UNAVAILABLE when they are of a newer version of the service.
    """
    with transaction(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(PREPARATION_LOCK)
        _create_schema(connection)
        found = _version(connection, schema)
        if found > schema.version:
            raise Unavailable("DATABASE_UNAVAILABLE", schema=found, needed=schema.version)
        for step in schema.steps[found - 1 :]:
            for statement in step:
                connection.execute(text(statement))
        METADATA.create_all(connection)
        schema.tables.create_all(connection)
        connection.execute(VERSION.delete())
        connection.execute(VERSION.insert().values(version=schema.version))


def _create_schema(connection: Connection) -> None:
    """Make the schema that `connect` was given, where there are schemas."""
    name = connection.get_execution_options().get("headrace_schema")
    if name is not None:
        connection.execute(CreateSchema(name, if_not_exists=True))


def _version(connection: Connection, schema: Schema) -> int:
    """Of the tables that are there; the newest when there are none, for those need no step."""
    there = inspect(connection)
    if there.has_table(VERSION.name):
        return int(connection.execute(VERSION.select()).scalar_one())
    old = any(there.has_table(name) for name in schema.tables.tables)
    return 1 if old else schema.version

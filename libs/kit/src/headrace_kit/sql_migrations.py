# SPDX-License-Identifier: Apache-2.0
"""The tables of a service by Alembic revisions, up and down, by one replica at a time.

A folder holds one module for each revision, named by its number, the first of which makes the first
tables. The service's start goes up to the newest; a database that is further is refused. Each way
is one transaction. SQLite changes a table by copying it, so its foreign keys are off on the way and
all of them are looked through before the end.

The number of the revision is written into `schema_version`, too: a service of before Alembic looks
there, and refuses tables that are newer than it. Its own tables are taken over by that number.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from sqlalchemy import Column, Connection, Engine, Integer, Table, inspect, text
from sqlalchemy.schema import CreateSchema

from headrace.errors import Unavailable
from headrace_kit.failpoints import failpoint
from headrace_kit.sql import INBOX, METADATA, OUTBOX, away_told

NEWEST, NOTHING, FIRST = "head", "base", "0001"
# Without the lock two replicas on an empty PostgreSQL would both create, and one would fail.
PREPARATION_LOCK = text("select pg_advisory_xact_lock(hashtextextended('headrace schema', 0))")
# The table of Alembic itself, which is empty behind the way down to nothing.
ALEMBIC = "alembic_version"
VERSION = Table("schema_version", METADATA, Column("version", Integer, primary_key=True))


class Migrations:
    """The revisions in `folder`."""

    def __init__(self, folder: Path) -> None:
        config = Config()
        config.set_main_option("script_location", str(folder.parent))
        config.set_main_option("version_locations", str(folder))
        config.set_main_option("path_separator", "os")
        self._script = ScriptDirectory.from_config(config)

    def upgrade(self, engine: Engine, revision: str = NEWEST) -> None:
        """Brings the tables up to the revision, from whichever they are at.

        Raises Unavailable DATABASE_UNAVAILABLE when they are of a newer version of the service.
        """
        with _changing(engine) as connection:
            context = MigrationContext.configure(connection)
            found = self._found(connection, context)
            METADATA.create_all(connection, tables=[OUTBOX, INBOX])
            with Operations.context(context):
                for step in reversed(list(self._script.iterate_revisions(revision, found))):
                    step.module.upgrade()
                    failpoint("kit.migrate.half")
            self._stamp(connection, context, revision)

    def downgrade(self, engine: Engine, revision: str) -> None:
        """Takes the tables back to an older revision; NOTHING takes them away."""
        with _changing(engine) as connection:
            context = MigrationContext.configure(connection)
            found = self._found(connection, context)
            with Operations.context(context):
                for step in self._script.iterate_revisions(found, revision):
                    step.module.downgrade()
            self._stamp(connection, context, revision)

    def _stamp(self, connection: Connection, context: MigrationContext, revision: str) -> None:
        context.stamp(self._script, revision)
        found = context.get_current_revision()
        if found is None:
            VERSION.drop(connection, checkfirst=True)
        else:
            _note_version(connection, int(found))

    def _found(self, connection: Connection, context: MigrationContext) -> str:
        found = context.get_current_revision() or _before_alembic(connection)
        try:
            self._script.get_revision(found)
        except (CommandError, ResolutionError) as err:
            newest = self._script.get_current_head()
            raise Unavailable("DATABASE_UNAVAILABLE", schema=found, needed=newest) from err
        return found


class MigratedDatabase:
    """The database answers and has the newest tables; a Part, before those that use it."""

    def __init__(self, engine: Engine, migrations: Migrations) -> None:
        self._engine, self._migrations = engine, migrations

    def start(self) -> None:
        """Raises what `upgrade` raises."""
        self._migrations.upgrade(self._engine)

    def stop(self, timeout_s: float) -> None:
        self._engine.dispose()

    def failed(self) -> BaseException | None:
        return None


def _before_alembic(connection: Connection) -> str:
    """The revision that has the tables which are there; the very first had no number."""
    there = {*inspect(connection).get_table_names()} - {OUTBOX.name, INBOX.name, ALEMBIC}
    if VERSION.name in there:
        return f"{int(connection.execute(VERSION.select()).scalar_one()):04d}"
    return FIRST if there else NOTHING


def _note_version(connection: Connection, version: int) -> None:
    VERSION.create(connection, checkfirst=True)
    connection.execute(VERSION.delete())
    connection.execute(VERSION.insert().values(version=version))


def _create_schema(connection: Connection) -> None:
    """Make the schema that `connect` was given, where there are schemas."""
    name = connection.get_execution_options().get("headrace_schema")
    if name is not None:
        connection.execute(CreateSchema(name, if_not_exists=True))


@contextmanager
def _changing(engine: Engine) -> Iterator[Connection]:
    """A transaction that may change tables."""
    with (
        away_told(engine),
        engine.connect() as connection,
        _unchecked(connection),
        connection.begin(),
    ):
        if engine.dialect.name == "postgresql":
            connection.execute(PREPARATION_LOCK)
        _create_schema(connection)
        yield connection
        if engine.dialect.name == "sqlite":
            broken = connection.execute(text("pragma foreign_key_check")).first()
            if broken is not None:
                raise RuntimeError(f"a row of {broken[0]} lost its parent on the way")


@contextmanager
def _unchecked(connection: Connection) -> Iterator[None]:
    """Foreign keys are off (SQLite); the pragma has no effect inside of a transaction."""
    if connection.dialect.name != "sqlite":
        yield
        return
    driver = connection.connection.driver_connection
    assert driver is not None  # noqa: S101 (a connection that was just opened)
    driver.execute("pragma foreign_keys=off")
    try:
        yield
    finally:
        driver.execute("pragma foreign_keys=on")

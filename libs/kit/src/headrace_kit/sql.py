# SPDX-License-Identifier: Apache-2.0
"""One way to SQLite and PostgreSQL: a transaction is real from its first statement to its end.

SQLite's driver begins late and leaves foreign keys off; here every transaction is BEGIN IMMEDIATE,
so that a read and the write that follows see one state. A lost connection is Unavailable; whether
the commit happened is then unknown, and the caller repeats with the same request id. So is one
whose server stands still: it ends no statement by its own time-out, and is waited for as long as
the caller waits, or a little longer than that time-out.
"""

from __future__ import annotations

import select
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from shutil import disk_usage
from sqlite3 import SQLITE_FULL, SQLITE_IOERR
from sqlite3 import OperationalError as SqliteError
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from pydantic import SecretStr
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
    create_engine,
    event,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from headrace.errors import Invalid, Unavailable
from headrace_kit.answer_time import left_s

ANSWER_TIMEOUT_S = 40.0  # beyond what the server itself allows a statement
CONNECT_TIMEOUT_S = 5
CONNECTION_CHECK_S = 1
LOCK_TIMEOUT_S = 5
POOL_SIZE = 5
PORT_MAX = 65_535
STATEMENT_TIMEOUT_S = 30
WAIT_INTERVAL_S = 0.1  # psycopg's own: how often it looks whether it was interrupted
PRIMARY_CODE = 0xFF  # of SQLite's extended result codes
SQLITE_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON")
SQLITE_FILE_BYTES = 65_536  # the least that a database needs beside itself

METADATA = MetaData()
OUTBOX = Table(
    "outbox",
    METADATA,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("topic", String, nullable=False),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    Column("headers", LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)
INBOX = Table(
    "inbox",
    METADATA,
    Column("consumer", String, primary_key=True),
    Column("ce_id", String, primary_key=True),
)


def checked_database_uri(uri: str) -> str:
    """The URI of a database, as a setting may hold it: it ends in logs and process lists.

    Raises ValueError, with a sentence, for one that holds a password or that `connect` refuses;
    empty is left to the service.
    """
    if not uri:
        return uri
    try:
        url = make_url(uri)
    except ArgumentError as err:
        raise ValueError("is not a database URI") from err
    if url.password:
        raise ValueError("holds a password, which has a setting of its own: DATABASE_PASSWORD")
    _check(url)
    return uri


def _check(url: URL) -> None:
    backend = url.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise ValueError("is neither sqlite:///FILE nor postgresql://USER@HOST:PORT/NAME")
    if backend == "sqlite" and url.database in (None, "", ":memory:"):
        raise ValueError("needs a file: sqlite:///FILE")
    if url.port is not None and not 0 < url.port <= PORT_MAX:
        raise ValueError(f"names no port: 1 to {PORT_MAX}")


def with_password(uri: str, password: SecretStr | None) -> str:
    """The whole URI, for `connect` only."""
    if password is None:
        return uri
    url = make_url(uri).set(password=password.get_secret_value())
    return url.render_as_string(hide_password=False)


def connect(uri: str, *, schema: str = "public") -> Engine:
    """An engine for `sqlite:///FILE` or `postgresql://…`; raises Invalid BAD_SETTING otherwise.

    On PostgreSQL the tables live in `schema`, so that services may share a database without sharing
    an outbox; `Migrations` makes it.
    """
    try:
        url = make_url(uri)
        _check(url)
    except ArgumentError as err:  # its text may hold the password
        raise Invalid("BAD_SETTING", setting="database_uri") from err
    except ValueError as err:
        raise Invalid("BAD_SETTING", setting="database_uri", problem=err) from err
    if url.get_backend_name() == "sqlite":
        return _sqlite(uri, str(url.database))
    return _postgresql(url, schema)


class BoundedConnection(psycopg.Connection[Any]):
    """A connection to PostgreSQL that is closed when its server says nothing for too long."""

    def wait(
        self, gen: Any, interval: float = WAIT_INTERVAL_S, timeout: float | None = None
    ) -> Any:
        try:
            left = left_s(ANSWER_TIMEOUT_S)
            return super().wait(gen, interval, left if timeout is None else min(left, timeout))
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:  # no answer to read
                self.pgconn.finish()
            raise


class _Connecting:
    """Connects in threads of its own: the driver waits for 2 s at least, and some callers less."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(2 * POOL_SIZE, thread_name_prefix="postgresql-connect")

    def __call__(self, arguments: Any, settings: Any) -> BoundedConnection:
        coming = self._threads.submit(BoundedConnection.connect, *arguments, **settings)
        try:
            return coming.result(left_s(2.0 * CONNECT_TIMEOUT_S))
        except TimeoutError as err:
            coming.add_done_callback(_close)
            coming.cancel()
            raise psycopg.OperationalError("the server does not answer") from err


def _close(coming: Future[BoundedConnection]) -> None:
    if not coming.cancelled() and coming.exception() is None:
        coming.result().close()


def _postgresql(url: URL, schema: str) -> Engine:
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=POOL_SIZE,
        max_overflow=POOL_SIZE,
        pool_timeout=LOCK_TIMEOUT_S,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "options": f"-c statement_timeout={STATEMENT_TIMEOUT_S}s"
            f" -c lock_timeout={LOCK_TIMEOUT_S}s -c timezone=UTC -c search_path={schema}"
            # What runs for a connection that we closed ends soon, and gives back its locks.
            f" -c client_connection_check_interval={CONNECTION_CHECK_S}s",
        },
        execution_options={"headrace_schema": schema},
    )

    connecting = _Connecting()

    @event.listens_for(engine, "do_connect")
    def connected(_: Any, __: Any, arguments: Any, settings: Any) -> Any:
        return connecting(arguments, settings)

    @event.listens_for(engine, "checkout")
    def check(connection: Any, *_: object) -> None:
        # As good as a ping, without its way to the server: an idle one is told only of its end.
        if connection.closed or _readable(connection.fileno()):
            raise DisconnectionError  # the pool takes another

    return engine


def _readable(descriptor: int) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(0))


def _sqlite(uri: str, database: str) -> Engine:
    Path(database).parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):  # of one that cannot be made SQLite tells
        # SQLite's would be for all to read; its journal takes the mode of the database.
        Path(database).touch(mode=0o600, exist_ok=False)
    engine = create_engine(
        uri, connect_args={"timeout": LOCK_TIMEOUT_S, "check_same_thread": False}
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver shall not begin by itself
        for pragma in SQLITE_PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        connection.execute(f"PRAGMA busy_timeout={LOCK_TIMEOUT_S * 1000}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """A transaction that commits at the end or rolls back. Raises what `away_told` raises."""
    with away_told(engine), engine.begin() as connection:
        yield connection


def wipe_journal(engine: Engine) -> None:
    """What was deleted is in no file of SQLite's any more; PostgreSQL's are its operator's.

    The pages were written over as they were freed (`secure_delete`), but the write-ahead log holds
    them as they were until it is emptied. Raises Unavailable DATABASE_UNAVAILABLE while somebody
    reads what is in it: again later.
    """
    if engine.dialect.name != "sqlite":
        return
    with away_told(engine), closing(engine.raw_connection()) as connection:
        # By the driver: SQLAlchemy would begin a transaction, in which nothing is emptied.
        try:
            busy, *_ = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except SqliteError as err:
            raise Unavailable("DATABASE_UNAVAILABLE", dialect="sqlite") from err
    if busy:
        raise Unavailable("DATABASE_UNAVAILABLE", dialect="sqlite", problem="it is being read")


@contextmanager
def away_told(engine: Engine) -> Iterator[None]:
    """A database that is away, locked or out of connections is Unavailable DATABASE_UNAVAILABLE."""
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeoutError) as err:
        told = {"problem": "its disk is full"} if _lacks_room(err, engine) else {}
        raise Unavailable("DATABASE_UNAVAILABLE", dialect=engine.dialect.name, **told) from err


def _lacks_room(err: Exception, engine: Engine) -> bool:
    """SQLite says so of what it writes, and tells of its other files that they cannot be made."""
    code = getattr(getattr(err, "orig", None), "sqlite_errorcode", 0) & PRIMARY_CODE
    if code == SQLITE_IOERR:
        return disk_usage(Path(str(engine.url.database)).parent).free < SQLITE_FILE_BYTES
    return code == SQLITE_FULL


def insert_into(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An insert that can say what becomes of a row that is there: both databases can, each by an
    insert of its own.
    """
    own = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert
    return own(table)


class Inbox:
    """Remembers which events had their effect: in the same transaction as the effect."""

    def __init__(self, consumer: str) -> None:
        self._consumer = consumer

    def first_time(self, connection: Connection, ce_id: str) -> bool:
        """True once per event id, for this consumer."""
        row = insert_into(connection, INBOX).values(consumer=self._consumer, ce_id=ce_id)
        # SQLAlchemy forgets the row count of an insert (it says -1) unless it is asked to keep it.
        counted = row.on_conflict_do_nothing().execution_options(preserve_rowcount=True)
        return connection.execute(counted).rowcount == 1

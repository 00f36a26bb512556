# SPDX-License-Identifier: Apache-2.0
"""Who may read a SQLite database's files, and what they hold: all that was committed, even when
the power fails, and nothing that was deleted.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from sqlalchemy import Pool, event

from headrace.errors import Unavailable
from headrace_kit import sql
from headrace_kit.sql import connect, transaction, wipe_journal

SECRET = b"Ada Lovelace of St James's Square"


@pytest.fixture
def engine(tmp_path, monkeypatch):
    monkeypatch.setattr(sql, "LOCK_TIMEOUT_S", 0)
    made = connect(f"sqlite:///{tmp_path}/people.db")
    with transaction(made) as connection:
        connection.exec_driver_sql("create table people (name text)")
        connection.exec_driver_sql("insert into people values (?)", (SECRET.decode(),))
    yield made
    made.dispose()


@pytest.fixture
def trusting_sqlite():
    """One that was built to leave the disk its time, as some are."""

    def trust(connection, _):
        connection.execute("PRAGMA synchronous=OFF")

    # Of every pool: before what an engine does of its own.
    event.listen(Pool, "connect", trust)
    yield
    event.remove(Pool, "connect", trust)


def test_commit_waits_for_the_disk_however_sqlite_was_built(trusting_sqlite, engine):
    with transaction(engine) as connection:
        asked = [f"PRAGMA {name}" for name in ("synchronous", "journal_mode")]
        told = [connection.exec_driver_sql(each).scalar_one() for each in asked]

    full = 2  # https://sqlite.org/pragma.html#pragma_synchronous
    assert [full, "wal"] == told


def delete(engine):
    with transaction(engine) as connection:
        connection.exec_driver_sql("delete from people")


def holding(folder):
    return [path.name for path in folder.iterdir() if SECRET in path.read_bytes()]


def test_database_and_its_journal_are_for_their_owner_alone(engine, tmp_path):
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()}

    assert {f"people.db{each}": "0o600" for each in ("", "-shm", "-wal")} == modes


def test_deleted_row_is_in_no_file(engine, tmp_path):
    wipe_journal(engine)
    delete(engine)
    assert holding(tmp_path)

    wipe_journal(engine)

    assert [] == holding(tmp_path)


def test_journal_that_is_being_read_is_wiped_later(engine, tmp_path):
    with closing(sqlite3.connect(tmp_path / "people.db", isolation_level=None)) as reader:
        reader.execute("begin")
        reader.execute("select * from people").fetchall()
        delete(engine)

        with pytest.raises(Unavailable, match="DATABASE_UNAVAILABLE"):
            wipe_journal(engine)
        reader.execute("commit")
    wipe_journal(engine)

    assert [] == holding(tmp_path)

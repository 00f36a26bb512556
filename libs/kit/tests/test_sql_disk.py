# SPDX-License-Identifier: Apache-2.0
"""A database that finds no room says so: to look whether it answers would be in vain."""

from sqlite3 import SQLITE_IOERR_SHMSIZE, OperationalError
from types import SimpleNamespace

import pytest
from sqlalchemy import exc

from headrace.errors import Unavailable
from headrace_kit import sql
from headrace_kit.sql import away_told, connect, transaction


def insert(engine, size_bytes):
    with transaction(engine) as connection:
        connection.exec_driver_sql("insert into blobs values (zeroblob(?))", (size_bytes,))


def test_database_whose_disk_is_full_says_so(tmp_path):
    engine = connect(f"sqlite:///{tmp_path}/small.db")
    try:
        with transaction(engine) as connection:
            connection.exec_driver_sql("create table blobs (content blob)")
            connection.exec_driver_sql("pragma max_page_count = 9")
        insert(engine, 1_000)

        with pytest.raises(Unavailable, match=r"DATABASE_UNAVAILABLE.*its disk is full"):
            insert(engine, 1_000_000)
    finally:
        engine.dispose()


@pytest.mark.parametrize(("free_bytes", "told"), [(0, "its disk is full"), (1 << 30, "sqlite")])
def test_database_that_cannot_make_its_files_says_whether_for_want_of_room(
    tmp_path, monkeypatch, free_bytes, told
):
    engine, error = connect(f"sqlite:///{tmp_path}/small.db"), OperationalError("disk I/O error")
    error.sqlite_errorcode = SQLITE_IOERR_SHMSIZE
    monkeypatch.setattr(sql, "disk_usage", lambda folder: SimpleNamespace(free=free_bytes))

    with pytest.raises(Unavailable) as away, away_told(engine):
        raise exc.OperationalError("BEGIN", None, error)

    assert told == [*away.value.metadata.values()][-1]

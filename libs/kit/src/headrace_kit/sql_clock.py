# SPDX-License-Identifier: Apache-2.0
"""The time as a database has it: a lease that one process takes is judged by another one."""

from __future__ import annotations

from sqlalchemy import Engine, text

from headrace_kit.clock import Clock, SystemClock
from headrace_kit.sql import transaction

# Of now, not of the transaction's beginning.
NOW_US = text("select cast(extract(epoch from clock_timestamp()) * 1000000 as bigint)")


class PostgresClock:
    """Clock of a PostgreSQL server; raises Unavailable DATABASE_UNAVAILABLE."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def now_us(self) -> int:
        with transaction(self._engine) as connection:
            return int(connection.execute(NOW_US).scalar_one())


def database_clock(engine: Engine) -> Clock:
    """The one clock of all who share the database; SQLite is part of this process."""
    return PostgresClock(engine) if engine.dialect.name == "postgresql" else SystemClock()

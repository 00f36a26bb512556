# SPDX-License-Identifier: Apache-2.0
"""The key of the redrive seal: drawn once, kept in the database that only ingest reads."""

from __future__ import annotations

import secrets

from sqlalchemy import Column, Engine, Integer, LargeBinary, Table, select

from headrace_ingest.adapters.sql_task_store import METADATA
from headrace_ingest.domain.redrive_seal import KEY_BYTES
from headrace_kit.sql import insert_into, transaction

KEYS = Table(
    "redrive_keys",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("key", LargeBinary, nullable=False),
)
THE_ONE = 1


class SqlRedriveKey:
    """A Part behind the database: read at the start, so that no record waits for it later."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._key = engine, b""

    def start(self) -> None:
        """Raises Unavailable DATABASE_UNAVAILABLE. Of two processes that draw one, one wins."""
        with transaction(self._engine) as connection:
            drawn = secrets.token_bytes(KEY_BYTES)
            new = insert_into(connection, KEYS).values(id=THE_ONE, key=drawn)
            connection.execute(new.on_conflict_do_nothing())
            self._key = connection.execute(select(KEYS.c.key)).scalar_one()

    def stop(self, timeout_s: float) -> None:
        """Nothing is held."""

    def failed(self) -> BaseException | None:
        return None

    def __call__(self) -> bytes:
        return self._key

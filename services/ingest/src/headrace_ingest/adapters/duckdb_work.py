# SPDX-License-Identifier: Apache-2.0
"""One work of DuckDB: its own memory, its own folder to spill to, its own end in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from headrace.errors import Busy, Conflict, Unavailable
from headrace_kit.delta_scans import met_no_file, met_no_store

WORKS_MAX = 2
THREADS = 2
BATCH_ROWS = 8_192
# Nothing is read, written or loaded but what is registered; the folder to spill to is set before.
CLOSED = "set enable_external_access = false; set lock_configuration = true"


class Works:
    """At most WORKS_MAX at once; what does not fit into `memory_bytes` goes to `spill`.

    `in_turn`: one at a time, and the others wait for it, within their own time.
    """

    def __init__(self, spill: Path, memory_bytes: int, *, in_turn: bool) -> None:
        self._config: dict[str, Any] = {
            "memory_limit": f"{memory_bytes}B",
            "threads": THREADS,
            "temp_directory": str(spill),
            "autoload_known_extensions": "false",
            "autoinstall_known_extensions": "false",
            "python_scan_all_frames": False,
            "preserve_insertion_order": False,
        }
        self._in_turn, self._works_max = in_turn, 1 if in_turn else WORKS_MAX
        self._places = threading.BoundedSemaphore(self._works_max)

    @contextmanager
    def begin(self, timeout_s: float) -> Iterator[Work]:
        """Raises Busy QUEUE_FULL, Conflict VERSION_EXPIRED, Unavailable SERVICE_UNAVAILABLE or
        OBJECT_STORE_UNAVAILABLE."""
        end_s = time.monotonic() + timeout_s
        if not self._places.acquire(timeout=timeout_s if self._in_turn else 0.0):
            raise Busy("QUEUE_FULL", works_max=self._works_max)
        try:
            with duckdb.connect(":memory:", config=self._config) as connection:
                connection.execute(CLOSED)
                with _in_time(Work(connection), end_s - time.monotonic(), timeout_s) as work:
                    yield work
        finally:
            self._places.release()


class Work:
    """Queries of one work, one after the other."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._over = threading.Event()

    def end(self) -> None:
        """From another thread: no query goes on."""
        self._over.set()
        self._connection.interrupt()

    def register(self, name: str, table: Any) -> None:
        self._connection.register(name, table)

    def all(self, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Every row, of a query that gives few."""
        self._check()
        rows: list[Any] = self._connection.execute(query, list(parameters)).fetchall()
        return rows

    def reader(self, query: str) -> Any:
        """A RecordBatchReader, which is not ahead of its caller."""
        self._check()
        return self._connection.sql(query).to_arrow_reader(BATCH_ROWS)

    def batches(self, reader: Any) -> Iterator[Any]:
        for batch in reader:
            self._check()
            yield batch

    def _check(self) -> None:
        # An interrupt between two queries meets none.
        if self._over.is_set():
            raise duckdb.InterruptException("its time is over")


def _told(error: Exception) -> Exception:
    """What a failure of the registered tables means; another one of DuckDB is a bug."""
    if isinstance(error, FileNotFoundError) or met_no_file(error):
        # Erasure or retention removed a file of that version.
        return Conflict("VERSION_EXPIRED")
    if isinstance(error, duckdb.IOException | OSError) or met_no_store(error):
        return Unavailable("OBJECT_STORE_UNAVAILABLE", error=type(error).__name__)
    return error


@contextmanager
def _in_time(work: Work, left_s: float, timeout_s: float) -> Iterator[Work]:
    timer = threading.Timer(max(0.0, left_s), work.end)
    timer.daemon = True
    timer.start()
    try:
        yield work
    except duckdb.InterruptException as err:
        raise Unavailable("SERVICE_UNAVAILABLE", timeout_s=timeout_s) from err
    except (duckdb.Error, OSError) as err:
        raise _told(err) from err
    finally:
        timer.cancel()

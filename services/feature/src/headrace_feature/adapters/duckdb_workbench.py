# SPDX-License-Identifier: Apache-2.0
"""Workbench on a folder and DuckDB: what does not fit into memory lies on disk, under a cap.

Rows are an Arrow IPC stream in a file, in batches as large as one step of the work. DuckDB joins a
recipe's spine with its labels and puts the rows in order, within its own memory cap, and spills
into the folder. One bench is for one request and leaves nothing behind; all share one room on disk.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from headrace.application import Recipe
from headrace.errors import Busy, Invalid, Unavailable
from headrace_feature.adapters.arrow_archive import EVENT_TIME, KNOWN_TIME, to_column
from headrace_feature.adapters.training_rows_sql import (
    Types,
    raw_offsets_sql,
    spine_tally_sql,
    training_rows_sql,
)
from headrace_feature.adapters.view_rows_sql import round_end_sql, view_rows_sql
from headrace_feature.domain.records import Numbers, Texts
from headrace_feature.domain.request_features import Column
from headrace_feature.domain.training_set import RawOffsets, Round, SpineTally
from headrace_feature.domain.views import Layout, WeakColumns
from headrace_feature.ports import Snapshot
from headrace_kit.delta_scans import met_no_file, met_no_store
from headrace_kit.disk import needing_room, tells_full

ROWS_MAX = 1 << 18  # of one step
THREADS = 2
DUCKDB_BYTES_MAX = 512 << 20
# DuckDB's, of memory and of the room to spill; amid a stream pyarrow passes it on as an OSError.
OUT_OF_ROOM = "Out of Memory Error"
AS_OF = "as_of_us"
Item = TypeVar("Item")
Result = TypeVar("Result")


class DiskRoom:
    """How many bytes all benches together hold on disk, at most `bytes_max`."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._held_bytes, self._changing = 0, threading.Lock()

    def take(self, size_bytes: int) -> bool:
        """Whether there was room; a negative size gives some back."""
        with self._changing:
            if size_bytes > 0 and self._held_bytes + size_bytes > self.bytes_max:
                return False
            self._held_bytes += size_bytes
            return True

    def take_half(self) -> int:
        """Of what is left."""
        with self._changing:
            taken = (self.bytes_max - self._held_bytes) // 2
            self._held_bytes += taken
            return taken


class Workbench:
    """Room for requests; see `opened`."""

    def __init__(self, folder: Path, *, disk_bytes_max: int, observations_max: int) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # what a killed process left
        folder.mkdir(parents=True, mode=0o700)
        self._folder, self._room = folder, DiskRoom(disk_bytes_max)
        self._observations_max = observations_max

    @contextmanager
    def opened(self) -> Iterator[Bench]:
        """A bench whose files go when it is left; Busy DISK_FULL where none can be made."""
        with needing_room(self._folder):
            own = tempfile.TemporaryDirectory(dir=self._folder)
        with (
            own as folder,
            ThreadPoolExecutor(THREADS, thread_name_prefix="offline") as pool,
        ):
            bench = Bench(Path(folder), pool, self._room, observations_max=self._observations_max)
            try:
                yield bench
            finally:
                bench.clear()


class Bench:
    """Files and threads of one request."""

    def __init__(
        self, folder: Path, pool: ThreadPoolExecutor, room: DiskRoom, *, observations_max: int
    ) -> None:
        self._folder, self._pool, self._room = folder, pool, room
        self._bytes_by_file: dict[str, int] = {}
        self.observations_max = observations_max

    def clear(self) -> None:
        """Its files are going."""
        for name in list(self._bytes_by_file):
            self._hold(name, 0)

    def each(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The results in order; some are computed ahead of whoever takes them."""
        ahead: deque[Future[Result]] = deque()
        for item in items:
            ahead.append(self._pool.submit(function, item))
            if len(ahead) > THREADS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def stored(self, batches: Iterable[Any], schema: Any) -> StoredRows:
        """Rows that are read as often as needed, in place of those before.

        Raises Busy BATCH_TOO_LARGE beyond the cap, QUEUE_FULL while others have the room, as does
        a join that needs more than its memory and half of the room that is left; DISK_FULL.
        """
        import pyarrow as pa

        count, file = 0, self._folder / "rows.arrow"
        self._hold(file.name, 0)
        with (
            needing_room(file),
            pa.OSFile(str(file), "wb") as sink,
            pa.ipc.new_stream(sink, schema) as writer,
        ):
            for batch in batches:
                for first in range(0, batch.num_rows, ROWS_MAX):
                    writer.write_batch(batch.slice(first, ROWS_MAX))
                count += batch.num_rows
                self._hold(file.name, sink.tell())
        return StoredRows(file, count, schema)

    def given(self, columns: Mapping[str, Column], as_of_us: NDArray[np.int64]) -> StoredRows:
        """Rows that were asked for online."""
        import pyarrow as pa

        batch = pa.record_batch({**columns, AS_OF: as_of_us})
        return self.stored([batch], batch.schema)

    def training_rows(
        self,
        recipe: Recipe,
        columns: Collection[str],
        snapshots: Mapping[str, Snapshot],
        known_until_us: int,
        *,
        weak: Collection[WeakColumns] = (),
    ) -> StoredRows:
        """`entity_key`, `as_of_us`, `label` and the columns, in order of (as_of, event id)."""
        tables, types = _recipe_tables(recipe, snapshots)
        sql = training_rows_sql(recipe, columns, *types, known_until_us, weak=weak)
        with self._database(**tables) as database:
            reader = database.sql(sql).to_arrow_reader(ROWS_MAX)
            return self.stored(reader, reader.schema)

    def spine_tally(
        self,
        recipe: Recipe,
        snapshots: Mapping[str, Snapshot],
        known_until_us: int,
        *,
        weak: Collection[WeakColumns] = (),
    ) -> SpineTally:
        tables, types = _recipe_tables(recipe, snapshots)
        sql = spine_tally_sql(recipe, *types, known_until_us, weak=weak)
        with self._database(**tables) as database:
            found = database.sql(sql).fetchall()
        return SpineTally(
            stream=recipe.spine.stream,
            records=sum(count for _, count, *_ in found),
            first_us=min((first_us for *_, first_us, _ in found), default=0),
            last_us=max((last_us for *_, last_us in found), default=0),
            left_out={reason: count for reason, count, *_ in found if reason is not None},
        )

    def raw_offsets(
        self, snapshots: Mapping[str, Snapshot], known_until_us: int
    ) -> tuple[RawOffsets, ...]:
        found: list[RawOffsets] = []
        for stream, snapshot in sorted(snapshots.items()):
            if {"_partition", "_offset"} <= _types(snapshot.dataset).keys():
                with self._database(records=snapshot.dataset) as database:
                    rows = database.sql(raw_offsets_sql(known_until_us)).fetchall()
                found += [RawOffsets(stream, *row) for row in rows]
        return tuple(found)

    def view_rows(
        self, layout: Layout, snapshot: Snapshot, since_us: int, until_us: int, *, rows_max: int
    ) -> Round:
        import pyarrow.compute as pc

        archived = snapshot.dataset
        types = _types(archived)
        # Files that hold nothing of the round are told by their statistics, and not read.
        fresh = (pc.field(EVENT_TIME) > since_us) | (pc.field(KNOWN_TIME) > since_us)
        tables = {"records": archived.filter(fresh), "archived": archived}
        with self._database(**tables) as database:
            asked = round_end_sql(since_us, until_us, rows_max)
            first_us, beyond_us = database.sql(asked).fetchall()[0]
            if beyond_us is not None:
                until_us = beyond_us - (beyond_us > first_us)
            sql = view_rows_sql(layout, types, since_us, until_us)
            reader = database.sql(sql).to_arrow_reader(ROWS_MAX)
            return Round(self.stored(reader, reader.schema), until_us)

    @contextmanager
    def _database(self, **tables: Any) -> Iterator[Any]:
        """DuckDB with these tables, within its own memory, spilling into the folder.

        Raises Unavailable TABLE_CONTENDED, OBJECT_STORE_UNAVAILABLE, and Busy as `stored` does.
        """
        import duckdb

        alone_bytes_max = (self._room.bytes_max - sum(self._bytes_by_file.values())) // 2
        spilled, spilled_bytes_max = self._folder / "duckdb", self._room.take_half()
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{DUCKDB_BYTES_MAX}B",
            "threads": THREADS,
            "preserve_insertion_order": False,
            "temp_directory": str(spilled),
            "max_temp_directory_size": f"{spilled_bytes_max}B",
            "autoinstall_known_extensions": False,
        }
        try:
            with duckdb.connect(config=settings) as database:
                for name, table in tables.items():
                    database.register(name, table)
                yield database
        except (duckdb.Error, OSError) as err:
            # An erasure removed it. No join is of a version that the caller named, which would
            # not come back: the version after it answers the same request.
            if met_no_file(err):
                raise Unavailable("TABLE_CONTENDED", tables=", ".join(tables)) from err
            if met_no_store(err):
                raise Unavailable("OBJECT_STORE_UNAVAILABLE", tables=", ".join(tables)) from err
            if tells_full(err):
                raise Busy("DISK_FULL", path=spilled.name) from err
            if not str(err).startswith(OUT_OF_ROOM):
                raise
            raise self._too_large(spilled_bytes_max, alone_bytes_max) from err
        finally:
            self._room.take(-spilled_bytes_max)

    def _too_large(self, spilled_bytes_max: int, alone_bytes_max: int) -> Busy:
        """Of a join; rows that others hold, also those who wait, took of its half."""
        if spilled_bytes_max < alone_bytes_max:
            return self._queue_full()
        return Busy("BATCH_TOO_LARGE", spilled_bytes_max=spilled_bytes_max)

    def _queue_full(self) -> Busy:
        queue, bytes_max = "room on disk for offline work", self._room.bytes_max
        return Busy("QUEUE_FULL", queue=queue, bytes_max=bytes_max)

    def scratch(self, rows: int, width: int) -> Scratch:
        file = self._folder / "answers"
        self._hold(file.name, 8 * rows * width)
        return Scratch(file, width)

    def _hold(self, name: str, size_bytes: int) -> None:
        """The file is of this size, or is to become so."""
        held = self._bytes_by_file.get(name, 0)
        if not self._room.take(size_bytes - held):
            bytes_max = self._room.bytes_max
            if size_bytes > bytes_max // 2:  # a join beside it may need the other half
                raise Busy("BATCH_TOO_LARGE", bytes=size_bytes, bytes_max=bytes_max)
            raise self._queue_full()
        self._bytes_by_file[name] = size_bytes


def _recipe_tables(
    recipe: Recipe, snapshots: Mapping[str, Snapshot]
) -> tuple[dict[str, Any], tuple[Types, Types]]:
    """What the SQL of a recipe's rows reads, and the types of the columns of each."""
    spine, labels = snapshots[recipe.spine.stream].dataset, snapshots[recipe.label.stream].dataset
    types = _types(spine), _types(labels)
    return {"spine_records": spine, "label_records": labels}, types


def _types(table: Any) -> Types:
    return {field.name: str(field.type) for field in table.schema}


@dataclass(frozen=True, slots=True)
class ArrowBatch:
    """Batch of an Arrow record batch."""

    data: Any

    @property
    def as_of_us(self) -> NDArray[np.int64]:
        return self.data.column(AS_OF).to_numpy()

    def column(self, name: str) -> Texts | Numbers:
        import pyarrow as pa

        if name not in self.data.schema.names:
            raise Invalid("BAD_REQUEST", field="columns", problem=f"column {name} is missing")
        try:
            return to_column(self.data.column(name))
        except pa.ArrowInvalid as err:  # of uint64
            raise Invalid("BAD_REQUEST", field=name, problem="has numbers beyond int64") from err


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Rows in an Arrow IPC file."""

    file: Path
    count: int
    schema: Any

    def batches(self) -> Iterator[ArrowBatch]:
        import pyarrow as pa

        with pa.OSFile(str(self.file)) as source, pa.ipc.open_stream(source) as reader:
            for batch in reader:
                yield ArrowBatch(batch)


class Scratch:
    """[rows, width] float64 in a file."""

    def __init__(self, file: Path, width: int) -> None:
        self._file, self._width = file, width
        file.touch()

    def read(self, first: int, rows: int) -> NDArray[np.float64]:
        found = np.fromfile(
            self._file, np.float64, count=rows * self._width, offset=8 * first * self._width
        )
        return found.reshape(rows, self._width)

    def write(self, first: int, answers: NDArray[np.float64]) -> None:
        """Raises Busy DISK_FULL."""
        with needing_room(self._file), self._file.open("r+b") as file:
            file.seek(8 * first * self._width)
            # `tofile` does not tell why it fell short.
            file.write(np.ascontiguousarray(answers).data)

# SPDX-License-Identifier: Apache-2.0
"""FeatureTables in Delta Lake, one table per view at `features/<view>`; nobody else adds rows.

Rows and how far they reach are one commit: the version of the `txn` action `feature|<definition>`
is the moment up to which all rows are there, and Delta refuses a commit when another one has
written it since the table was read. Files are written first: what no commit names is never seen,
and ingest removes it when it is a day old. Nothing is compacted and the log is kept: a version
stays readable until an erasure, behind which ingest removes the files that no dataset names.

`feature|erased|<topic id>` is the place in the log of erasures of that id up to which no row of an
erased entity is in the table. A deletion sets it with the rows that it takes out; rows are appended
only by who knows all erasures before it, in the log that is there now, without theirs. Both write
`feature|erased`, too, so that Delta refuses rows when a deletion came between.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from headrace.errors import Invalid, Unavailable
from headrace_feature.adapters.arrow_archive import EVENT_TIME, ID, KNOWN_TIME
from headrace_feature.adapters.delta_erasure import (
    ERASED,
    Knowledge,
    erased_until,
    store_errors,
    take_out,
)
from headrace_feature.adapters.duckdb_workbench import AS_OF
from headrace_feature.domain.local_time import DAY_S
from headrace_feature.domain.log_place import LogPlace
from headrace_feature.domain.training_set import Batch, Rows
from headrace_feature.domain.views import DAY_US
from headrace_kit.clock import Clock
from headrace_kit.erased_entities import Entity, ErasedEntities
from headrace_kit.failpoints import failpoint
from headrace_kit.objects import delta_table_uri
from headrace_kit.telemetry import counter

FOLDER, DEFINITION, DATE = "features", "_definition", "_date"
# Well before ingest takes a file that no commit names for one that none ever will: no loop bounds
# how long a round takes, and the machine may have slept in it.
COMMITTED_WITHIN_US = 12 * 3_600 * 1_000_000
Answered = Iterable[tuple[Batch, NDArray[np.float32]]]

ERASURES_FAILED = counter(
    "feature",
    "table_erasures_failed_total",
    "Tables that kept erased entities, by try.",
    "view",
)

log = structlog.get_logger(__name__)


class DeltaFeatureTables:
    """FeatureTables in a folder or on S3. deltalake and pyarrow are imported at the first call.

    `log_id`: of the log of erasures that is there now; raises Unavailable.
    """

    def __init__(
        self,
        uri: str,
        storage_options: Mapping[str, str],
        clock: Clock,
        erased: ErasedEntities,
        log_id: Callable[[], str],
    ) -> None:
        self._uri, self._options, self._clock = uri, dict(storage_options), clock
        self._knowledge, self._log_id = Knowledge(erased), log_id

    def open(self, view: str, definition: str) -> DeltaFeatureTable:
        uri = delta_table_uri(self._uri, FOLDER, view)
        return DeltaFeatureTable(
            view, definition, uri, self._options, self._clock, self._knowledge, self._log_id
        )

    def know(self, known: LogPlace) -> None:
        """All erasures before this place in their log are in `erased`."""
        self._knowledge.known = known

    def erase(self, told: Sequence[tuple[int, Entity]], known: LogPlace) -> Iterator[None]:
        """Take the rows of erased entities out of every table there is, a commit at a step.

        `told`: all erasures with their places in the log, before `known`. Raises Unavailable
        OBJECT_STORE_UNAVAILABLE, where tables fail once the others are done.
        """
        failed = []
        for view in self._views() if told else ():
            try:
                yield from self._erase(view, told, known)
            except Unavailable:
                ERASURES_FAILED.labels(view).inc()
                failed.append(view)
            yield
        if failed:
            raise Unavailable("OBJECT_STORE_UNAVAILABLE", views=", ".join(failed))

    def _erase(
        self, view: str, told: Sequence[tuple[int, Entity]], known: LogPlace
    ) -> Iterator[None]:
        uri = delta_table_uri(self._uri, FOLDER, view)
        with store_errors(view):
            taken = yield from take_out(uri, self._options, told, known)
        if taken:
            log.info("erased_rows", view=view, rows=taken)

    def _views(self) -> list[str]:
        """Also of those that are applied no more."""
        from deltalake.exceptions import TableNotFoundError
        from deltalake.fs import DeltaStorageHandler
        from pyarrow import fs

        try:
            files = fs.PyFileSystem(
                DeltaStorageHandler(delta_table_uri(self._uri, FOLDER), self._options)
            )
        except TableNotFoundError:  # a folder that nobody has made yet
            return []
        with store_errors(FOLDER):
            found = files.get_file_info(fs.FileSelector("", allow_not_found=True))
        return sorted(each.base_name for each in found if each.type == fs.FileType.Directory)


class DeltaFeatureTable:
    """FeatureTable as it was when it was opened."""

    def __init__(
        self,
        view: str,
        definition: str,
        uri: str,
        storage_options: Mapping[str, str],
        clock: Clock,
        knowledge: Knowledge,
        log_id: Callable[[], str],
    ) -> None:
        self._view, self._definition, self._clock = view, definition, clock
        self._uri, self._options = uri, dict(storage_options)
        self._knowledge, self._log_id = knowledge, log_id
        with store_errors(view):
            self._table = self._opened()

    @property
    def version(self) -> int:
        return -1 if self._table is None else int(self._table.version())

    @property
    def until_us(self) -> int | None:
        return None if self._table is None else self._table.transaction_version(self._app_id)

    @property
    def _app_id(self) -> str:
        return f"feature|{self._definition}"

    def append(
        self, answered: Answered, features: Sequence[str], rows: Rows, until_us: int
    ) -> bool:
        import pyarrow as pa
        from deltalake.exceptions import CommitFailedError

        values = [(name, pa.float32()) for name in features]
        fixed = [(ID, pa.string()), (EVENT_TIME, pa.int64()), (KNOWN_TIME, pa.int64())]
        known = (*dict(fixed), AS_OF)
        entity = [(each.name, each.type) for each in rows.schema if each.name not in known]
        schema = pa.schema([*fixed, (DEFINITION, pa.string()), *entity, *values])
        keys = [name for name, _ in entity]
        with store_errors(self._view):
            try:
                return self._add(answered, schema, keys, until_us)
            except CommitFailedError as err:
                log.warning("feature_commit_lost", view=self._view, error=str(err))
                return False

    def _add(self, answered: Answered, schema: Any, keys: Sequence[str], until_us: int) -> bool:
        if self._overtaken_while_made(schema):
            return False
        self._check_known()
        batches = (
            self._knowledge.others(_rows(batch, each, self._definition, schema), keys)
            for batch, each in answered
        )
        begun_us = self._clock.now_us()
        files = list(_written(batches, schema, self._uri, self._options))
        failpoint("feature.offline.parquet_written")
        if self._clock.now_us() - begun_us > COMMITTED_WITHIN_US:
            log.warning("feature_files_too_old", view=self._view)
            return False
        self._commit(files, until_us)
        return True

    def _check_known(self) -> None:
        """Asked behind the opening: who follows a log that is made later is refused, or refuses."""
        known, log_id = self._knowledge.known, self._log_id()
        if log_id != known.log_id or erased_until(self._table, log_id) > known.offset:
            raise Unavailable("ERASURES_AWAITED", view=self._view)

    def _opened(self) -> Any:
        """None where there is no table yet."""
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        try:
            return DeltaTable(self._uri, storage_options=self._options)
        except TableNotFoundError:
            return None

    def _overtaken_while_made(self, schema: Any) -> bool:
        """Makes the table, or gives it the columns that it lacks; whether another wrote since."""
        import pyarrow as pa
        from deltalake import DeltaTable, Schema

        fields = Schema.from_arrow(schema.append(pa.field(DATE, pa.date32()))).fields
        before = self.until_us
        if self._table is None:
            DeltaTable.create(
                self._uri,
                schema=Schema(fields),
                partition_by=[DATE],
                mode="ignore",
                storage_options=self._options,
                configuration={"delta.enableExpiredLogCleanup": "false"},
            )
            self._table = self._opened()
        types = {each.name: each.type for each in self._table.schema().fields}
        for each in fields:
            if types.get(each.name, each.type) != each.type:
                problem = "is in the feature table with another type"
                raise Invalid("BAD_DEFINITION", view=self._view, column=each.name, problem=problem)
        if missing := [each for each in fields if each.name not in types]:
            self._table.alter.add_columns(missing)
            self._table = self._opened()
        return self.until_us != before

    def _commit(self, files: list[_File], until_us: int) -> None:
        """Refused where another has written, or erased, meanwhile."""
        from deltalake import CommitProperties, Transaction

        now_ms = self._clock.now_us() // 1_000
        erased = self._table.transaction_version(ERASED) or 0
        self._table.create_write_transaction(
            [each.action(now_ms) for each in files],
            mode="append",
            schema=self._table.schema(),
            partition_by=[DATE],
            commit_properties=CommitProperties(
                app_transactions=[
                    Transaction(self._app_id, until_us),
                    Transaction(ERASED, erased),
                ]
            ),
        )


@dataclass(slots=True)
class _File:
    """A file that no commit names yet, and what it holds.

    Of every column the statistics are told: deltalake's data set takes a column of which none are
    told for one that equals nothing.
    """

    path: str
    date: str
    size_bytes: int = 0
    rows: int = 0
    nulls: Counter[str] = field(default_factory=Counter)
    least: dict[str, Any] = field(default_factory=dict)
    most: dict[str, Any] = field(default_factory=dict)

    def add(self, batch: Any) -> None:
        import pyarrow.compute as pc

        self.rows += batch.num_rows
        for name, values in zip(batch.schema.names, batch.columns, strict=True):
            self.nulls[name] += values.null_count
            found = pc.min_max(values).as_py()
            if found["min"] is not None:
                self.least[name] = min(found["min"], self.least.get(name, found["min"]))
                self.most[name] = max(found["max"], self.most.get(name, found["max"]))

    def action(self, written_ms: int) -> Any:
        from deltalake.transaction import AddAction

        stats = {
            "numRecords": self.rows,
            "nullCount": self.nulls,
            "minValues": self.least,
            "maxValues": self.most,
        }
        return AddAction(
            path=self.path,
            size=self.size_bytes,
            partition_values={DATE: self.date},
            modification_time=written_ms,
            data_change=True,
            stats=json.dumps(stats),
        )


def _rows(batch: Batch, answers: NDArray[np.float32], definition: str, schema: Any) -> Any:
    """As they are stored: what is absent is null."""
    import pyarrow as pa

    data = batch.data
    fixed = [data.column(ID), data.column(EVENT_TIME), data.column(AS_OF)]
    width = answers.shape[1]
    entity = [data.column(name) for name in schema.names[len(fixed) + 1 : len(schema) - width]]
    told = pa.array([definition]).take(pa.array(np.zeros(data.num_rows, dtype=np.int64)))
    values = [pa.array(each, mask=np.isnan(each)) for each in np.ascontiguousarray(answers.T)]
    return pa.record_batch([*fixed, told, *entity, *values], schema=schema)


def _written(
    batches: Iterable[Any], schema: Any, uri: str, options: Mapping[str, str]
) -> Iterator[_File]:
    """A file for each day; the rows come in the order of their moments."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from deltalake.fs import DeltaStorageHandler

    files = pa.fs.PyFileSystem(DeltaStorageHandler(uri, dict(options)))
    pieces = (piece for batch in batches for piece in _by_day(batch))
    for date, of_day in groupby(pieces, key=itemgetter(0)):
        file = _File(f"{DATE}={date}/{uuid.uuid4().hex}.parquet", date)
        with files.open_output_stream(file.path) as sink:
            with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
                for _, piece in of_day:
                    writer.write_batch(piece)
                    file.add(piece)
            file.size_bytes = sink.tell()
        yield file


def _by_day(batch: Any) -> Iterator[tuple[str, Any]]:
    days = batch.column(KNOWN_TIME).to_numpy() // DAY_US
    edges = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(days)]
    for first, last in pairwise(edges):
        if last > first:
            moment = datetime.fromtimestamp(int(days[first]) * DAY_S, UTC)
            yield moment.date().isoformat(), batch.slice(first, last - first)

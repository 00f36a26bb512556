# SPDX-License-Identifier: Apache-2.0
"""Archive in Delta Lake, one table per stream at `records/<stream>`.

Rows and accounts are one commit: each counter of a raw partition is the version of a `txn` action
of the app id `ingest|<topic id>|<partition>|<counter>`. Delta refuses a commit when another one has
written one of its app ids since the table was read. That is the fence against a second owner; it
holds only through the handle that was read, never by path. A doubtful commit is settled by reading
the counters again. Beside them `accounted_at` tells when the offset moved last, by our clock in
microseconds: readers see by it which partitions are quiet.

A table that is not there is made only for a stream that was never read. Of one that was, somebody
took it away: made anew, it would begin all records again and those that Kafka has no more be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import polars as pl
import structlog
from deltalake import (
    ColumnProperties,
    CommitProperties,
    DeltaTable,
    Field,
    QueryBuilder,
    Schema,
    Transaction,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import (
    CommitFailedError,
    DeltaError,
    DeltaProtocolError,
    SchemaMismatchError,
    TableNotFoundError,
)
from deltalake.fs import DeltaStorageHandler
from deltalake.schema import PrimitiveType
from pyarrow.fs import FileType

from headrace.application import Stream
from headrace.errors import Invalid, Unavailable
from headrace_ingest.domain.accounts import OFFSET, Account, account_of
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.dedup import Seen
from headrace_ingest.domain.judging import empty_rows
from headrace_ingest.metrics import COMMIT_SECONDS
from headrace_ingest.ports.archive import Overtaken, RawTopic, Restored
from headrace_kit.clock import Clock, SystemClock
from headrace_kit.disk import tells_full
from headrace_kit.failpoints import failpoint
from headrace_kit.objects import delta_table_uri

COMMIT_TRIES_MAX = 3
# A handle reads all log entries since the checkpoint that it began with, at each commit.
# Versions that a table is opened at, one after the other, while its files are removed meanwhile.
MOVES_MAX = 4
# Of polars: what its engine met amid the rows, as a file that an erasure has removed.
READ_ERRORS = (DeltaError, OSError, pl.exceptions.ComputeError)
COMMITS_PER_CHECKPOINT = 50
COMMITS_PER_COMPACTION = 200
COMPACTED_BYTES = 32 * 1024 * 1024
# A dictionary of values that are nearly all different costs more than the rest of a commit, and
# zstd finds what a dictionary would have. Statistics by file are what readers skip files by.
WRITER = WriterProperties(
    compression="ZSTD",
    compression_level=1,
    default_column_properties=ColumnProperties(
        dictionary_enabled=False, statistics_enabled="CHUNK"
    ),
)
# Rows lie by the day of their event time: what training sets and erasure ask for.
PARTITION_COLUMN = "_event_date"
ACCOUNTED_AT = "accounted_at"
_DELTA_TYPES: dict[pl.DataType, str] = {
    pl.String(): "string",
    pl.Int64(): "long",
    pl.Int32(): "integer",
    pl.Float64(): "double",
    pl.Boolean(): "boolean",
    pl.Binary(): "binary",
    pl.Date(): "date",
}
_POLARS_TYPES = {name: dtype for dtype, name in _DELTA_TYPES.items()}

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Open:
    """A table in work, and the version at which it was maintained last.

    A table that is `stale` is read again, and the counters compared, before it is written through.
    """

    table: DeltaTable
    topic_id: str
    maintained: int
    files: DeltaStorageHandler
    stale: bool = False

    def newest_commit_there(self) -> bool:
        """Whether the log still has the newest commit that the handle knows: a single request."""
        commit = f"_delta_log/{self.table.version():020}.json"
        return self.files.get_file_info([commit])[0].type == FileType.File


class DeltaArchive:
    """Archive; `open` and `append` belong to one thread, `accounts` to any."""

    def __init__(
        self,
        object_store_uri: str,
        storage_options: Mapping[str, str],
        *,
        clock: Clock | None = None,
        was_read: Callable[[str], bool],
    ) -> None:
        """`was_read`: whether a stream's topic was read before, by who else remembers it."""
        self._uri, self._clock = object_store_uri, clock or SystemClock()
        self._was_read = was_read
        self._options = dict(storage_options)
        self._open_by_stream: dict[str, _Open] = {}

    def open(
        self,
        contract: Contract,
        topic_id: str,
        partitions: Collection[int],
        *,
        ids_max: int,
    ) -> Mapping[int, Restored]:
        with self._store_errors(contract.name):
            table, accounts, seen = self._read(contract, topic_id, partitions, ids_max)
            files = DeltaStorageHandler(self._table_uri(contract.name), self._options)
        self._open_by_stream[contract.name] = _Open(table, topic_id, table.version(), files)
        return {n: Restored(account, seen.get(n, ())) for n, account in accounts.items()}

    def _read(
        self, contract: Contract, topic_id: str, partitions: Collection[int], ids_max: int
    ) -> tuple[DeltaTable, dict[int, Account], dict[int, list[Seen]]]:
        """All of one version: an erasure removes the files of those before its own meanwhile."""
        table = self._table_for(contract)
        for _ in range(MOVES_MAX):
            accounts = {number: _account(table, topic_id, number) for number in partitions}
            try:
                return table, accounts, _seen(table, accounts, ids_max=ids_max)
            except READ_ERRORS:
                newest = self._table_for(contract)
                if newest.version() == table.version():
                    raise
                table = newest
        raise Unavailable("TABLE_CONTENDED", stream=contract.name)

    def append(
        self,
        contract: Contract,
        rows: pl.DataFrame,
        before: Mapping[int, Account],
        after: Mapping[int, Account],
    ) -> None:
        opened = self._open_by_stream[contract.name]
        failpoint("ingest.sink.version_read")
        with self._store_errors(contract.name), COMMIT_SECONDS.labels(contract.name).time():
            try:
                self._commit(contract.name, opened, rows, before, after)
            except TableNotFoundError as err:
                raise _missing(contract.name) from err
        self._maintain(contract.name, opened)

    def _commit(
        self,
        stream: str,
        opened: _Open,
        rows: pl.DataFrame,
        before: Mapping[int, Account],
        after: Mapping[int, Account],
    ) -> None:
        for _ in range(COMMIT_TRIES_MAX):
            if opened.stale:
                opened.table = self._table(stream)
                if _settled(opened, _offsets(before), _offsets(after)):
                    return
            self._check_there(stream, opened)
            opened.stale = True  # also when the write ends by an error of another kind
            try:
                transactions = _transactions(opened.topic_id, before, after, self._clock.now_us())
                _write(opened.table, rows, transactions)
            except CommitFailedError as err:
                log.warning("commit_failed", stream=stream, error=str(err))
            else:
                opened.stale = False
                return
        raise Unavailable("TABLE_CONTENDED", stream=stream)

    def _maintain(self, stream: str, opened: _Open) -> None:
        """Keep commits and reads cheap; what fails here is left for the next time."""
        version, last = opened.table.version(), opened.maintained
        if version // COMMITS_PER_CHECKPOINT == last // COMMITS_PER_CHECKPOINT:
            return
        failpoint("ingest.sink.maintain")
        # Compacting moves the handle on, maybe past a commit of somebody else.
        opened.maintained, opened.stale = version, True
        try:
            if version // COMMITS_PER_COMPACTION != last // COMMITS_PER_COMPACTION:
                opened.table.optimize.compact(target_size=COMPACTED_BYTES, writer_properties=WRITER)
            opened.table.create_checkpoint()
        except (DeltaError, OSError) as err:
            log.warning("maintenance_failed", stream=stream, error=str(err))

    def accounts(self, stream: str, topic: RawTopic) -> Mapping[int, Account]:
        try:
            with self._store_errors(stream):
                table = self._table(stream)
                return {n: _account(table, topic.topic_id, n) for n in topic.partitions}
        except TableNotFoundError as err:
            if self._was_read(stream):
                raise _missing(stream) from err
            return {}

    def _check_there(self, stream: str, opened: _Open) -> None:
        """Raises TableNotFoundError: a write would leave its files where no table is."""
        uri = self._table_uri(stream)
        if opened.newest_commit_there():
            return
        # Of a table that others wrote to meanwhile, the log may have dropped that commit.
        if not DeltaTable.is_deltatable(uri, self._options):
            raise TableNotFoundError(uri)

    def _table_uri(self, stream: str) -> str:
        return delta_table_uri(self._uri, "records", stream)

    def _table(self, stream: str) -> DeltaTable:
        return DeltaTable(self._table_uri(stream), storage_options=self._options)

    def _table_for(self, contract: Contract) -> DeltaTable:
        """The stream's table, made or widened when the contract asks for it."""
        fields = _fields(contract.stream)
        try:
            table = self._table(contract.name)
        except TableNotFoundError as err:
            if self._was_read(contract.name):
                raise _missing(contract.name) from err
            DeltaTable.create(
                self._table_uri(contract.name),
                schema=Schema(fields),
                partition_by=[PARTITION_COLUMN],
                mode="ignore",
                storage_options=self._options,
            )
            return self._table(contract.name)
        types = {field.name: field.type for field in table.schema().fields}
        for field in fields:
            if types.get(field.name, field.type) != field.type:
                raise Invalid(
                    "BAD_DEFINITION",
                    stream=contract.name,
                    column=field.name,
                    problem="is archived with another type",
                )
        if missing := [field for field in fields if field.name not in types]:
            table.alter.add_columns(missing)
            return self._table(contract.name)
        return table

    @contextmanager
    def _store_errors(self, stream: str) -> Iterator[None]:
        try:
            yield
        except (TableNotFoundError, SchemaMismatchError, DeltaProtocolError):
            raise
        except CommitFailedError as err:
            raise Unavailable("TABLE_CONTENDED", stream=stream) from err
        except READ_ERRORS as err:
            log.warning("object_store_failed", stream=stream, error=str(err))
            told = {"problem": "its disk is full"} if tells_full(err) else {}
            raise Unavailable("OBJECT_STORE_UNAVAILABLE", stream=stream, **told) from err


def _missing(stream: str) -> Unavailable:
    return Unavailable("ARCHIVE_MISSING", stream=stream)


def _fields(stream: Stream) -> list[Field]:
    schema = empty_rows(stream).schema
    return [
        Field(name, PrimitiveType(_DELTA_TYPES[dtype]), nullable=True)
        for name, dtype in schema.items()
    ]


def _write(table: DeltaTable, rows: pl.DataFrame, transactions: Sequence[Transaction]) -> None:
    """Append through the handle, in the table's column order; columns that are gone are null."""
    fields = table.schema().fields
    absent = [
        pl.lit(None, dtype=_POLARS_TYPES[field.type.type]).alias(field.name)
        for field in fields
        if field.name not in rows.columns
    ]
    rows = rows.with_columns(absent).select(field.name for field in fields)
    write_deltalake(
        table,
        # Texts not as views: pyarrow compares none of a file that says it holds views.
        rows.to_arrow(compat_level=pl.CompatLevel.oldest()),
        mode="append",
        writer_properties=WRITER,
        commit_properties=CommitProperties(
            app_transactions=list(transactions), max_commit_retries=COMMIT_TRIES_MAX
        ),
    )


def _settled(opened: _Open, before: dict[int, int], after: dict[int, int]) -> bool:
    """Whether the table stands at `after`; raises Overtaken when it does at neither."""
    stored = {n: _counter(opened.table, opened.topic_id, n, OFFSET) for n in after}
    if stored not in (before, after):
        raise Overtaken(f"{opened.table.table_uri}: {before} became {stored}")
    return stored == after


def _offsets(accounts: Mapping[int, Account]) -> dict[int, int]:
    return {number: account.offset for number, account in accounts.items()}


def _app_id(topic_id: str, partition: int, counter: str) -> str:
    return f"ingest|{topic_id}|{partition}|{counter}"


def _transactions(
    topic_id: str, before: Mapping[int, Account], after: Mapping[int, Account], now_us: int
) -> list[Transaction]:
    """The counters that change; `offset` always does, so that the fence always holds."""
    transactions = []
    for number, account in after.items():
        old = before[number].counters()
        counters = account.counters()
        if counters != old:
            counters[ACCOUNTED_AT] = now_us
        for counter, value in counters.items():
            if value != old.get(counter):
                transactions.append(Transaction(_app_id(topic_id, number, counter), value))
    return transactions


def _counter(table: DeltaTable, topic_id: str, partition: int, counter: str) -> int:
    version: int | None = table.transaction_version(_app_id(topic_id, partition, counter))
    return version or 0


def _account(table: DeltaTable, topic_id: str, partition: int) -> Account:
    if not _counter(table, topic_id, partition, OFFSET):
        return Account()
    return account_of(lambda counter: _counter(table, topic_id, partition, counter))


def _seen(
    table: DeltaTable, accounts: Mapping[int, Account], *, ids_max: int
) -> dict[int, list[Seen]]:
    """The newest rows of each partition, from old to new; memory is bounded by `ids_max`."""
    engine = QueryBuilder().register("records", table)
    return {
        number: _newest(engine, number, account, ids_max)
        for number, account in accounts.items()
        if account.stored
    }


def _newest(engine: QueryBuilder, number: int, account: Account, ids_max: int) -> list[Seen]:
    """The last `ids_max` rows, or all.

    Offsets are asked for from the end, four times as far each time, until enough are rows: a lower
    bound lets Delta skip the files before it.
    """
    wanted, span = min(ids_max, account.stored), ids_max
    while True:
        floor = account.offset - span
        query = f"""select _event_id, _payload_sha256 from records
                    where _partition = {number}
                      and _offset >= {floor} and _offset < {account.offset}
                    order by _offset desc limit {ids_max}"""  # noqa: S608 - whole numbers only
        rows = pl.DataFrame(engine.execute(query)).reverse()
        if rows.height >= wanted or floor <= 0:
            return [Seen(*row) for row in rows.iter_rows()]
        span *= 4

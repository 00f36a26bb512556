# SPDX-License-Identifier: Apache-2.0
"""The Delta tables of streams, and of views, at any version that their log still holds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from typing import Any

import structlog
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from pyarrow.dataset import FileSystemDataset

from headrace.errors import Conflict, NotFound, Unavailable
from headrace_ingest.adapters.delta_archive import COMMIT_TRIES_MAX, PARTITION_COLUMN
from headrace_ingest.adapters.delta_commits import took_rows
from headrace_ingest.adapters.delta_orphans import files_below, remove_orphans, remove_some
from headrace_ingest.domain.dataset_copies import copy_in
from headrace_ingest.domain.datasets import Selection
from headrace_ingest.domain.erasures import predicate
from headrace_kit.delta_scans import arrow_dataset
from headrace_kit.erased_entities import Entity
from headrace_kit.failpoints import failpoint
from headrace_kit.objects import delta_table_uri

COPIES = "dataset-rows"

log = structlog.get_logger(__name__)


class DeltaTables:
    """Tables of the archive, and the copies of datasets that an erasure changed."""

    def __init__(
        self,
        object_store_uri: str,
        storage_options: Mapping[str, str],
        *,
        was_read: Callable[[str], bool],
    ) -> None:
        """`was_read` as `DeltaArchive` has it: of such a stream no table is not an empty one."""
        self._uri, self._options = object_store_uri, dict(storage_options)
        self._was_read = was_read

    def newest_version(self, stream: str, *, view: str = "") -> int:
        asked = Selection(stream, 0, (), view=view)
        with self._store_errors(asked):
            return int(self._table(asked).version())

    def reached_us(self, selection: Selection) -> int | None:
        with self._store_errors(selection):
            table = self._table(selection)
            table.load_as_version(selection.delta_version)
            return table.transaction_version(f"feature|{selection.definition}")

    def open(self, selection: Selection) -> Any:
        with self._store_errors(selection):
            if selection.copy:
                return arrow_dataset(self._newest(selection), self._options)
            table = self._table(selection)
            try:
                table.load_as_version(selection.delta_version)
            except TableNotFoundError:
                raise
            except DeltaError as err:
                self._table(selection)  # raises while the store is away
                raise Conflict(
                    "VERSION_EXPIRED",
                    stream=selection.stream,
                    delta_version=selection.delta_version,
                ) from err
            return arrow_dataset(table, self._options)

    def write_copy(self, copy: str, rows: Any) -> None:
        with self._store_errors(Selection(copy, 0, ())):
            write_deltalake(
                delta_table_uri(self._uri, COPIES, copy),
                rows,
                mode="error",
                storage_options=self._options,
            )

    def erase(self, selection: Selection, entity: Entity) -> int | None:
        with self._store_errors(selection):
            table = self._newest(selection)
            if not selection.copy:
                table.load_as_version(selection.delta_version)
            types = {field.name: field.type.type for field in table.schema().fields}
            if entity.column not in types:  # no commit has brought it yet
                return 0
            own = predicate(entity, float64=types[entity.column] == "double")
            try:
                return int(table.delete(own)["num_deleted_rows"] or 0)
            except CommitFailedError as err:
                log.warning("erasure_meets_a_commit", stream=selection.stream, error=str(err))
                return None

    def retire(self, selection: Selection, first_day: date) -> int:
        return self._delete(selection, f"{PARTITION_COLUMN} < date '{first_day.isoformat()}'")

    def removed_since(self, selection: Selection, version: int) -> bool:
        newest = replace(selection, copy="")
        with self._store_errors(selection):
            since = range(version + 1, self._newest(newest).version() + 1)
            try:
                return took_rows(self._place(newest), self._options, since)
            except FileNotFoundError:  # what the log has forgotten may have been anything
                return True

    def added(self, selection: Selection, since: int) -> Any:
        table = self.open(selection)
        old = self._files(selection, since)
        added = [each for each in table.get_fragments() if _file(each.path) not in old]
        return FileSystemDataset(added, table.schema, table.format, table.filesystem)

    def _files(self, selection: Selection, version: int) -> set[str]:
        """Of the table as it was then; none when nobody knows any more."""
        if version < 0:
            return set()
        with self._store_errors(selection):
            table = self._table(selection)
            try:
                table.load_as_version(version)
            except DeltaError as err:
                log.warning("version_forgotten", stream=selection.stream, error=str(err))
                return set()
            return {_file(each) for each in table.file_uris()}

    def _delete(self, selection: Selection, rows: str) -> int:
        with self._store_errors(selection):
            for _ in range(COMMIT_TRIES_MAX):
                try:
                    return int(self._newest(selection).delete(rows)["num_deleted_rows"] or 0)
                except CommitFailedError as err:
                    log.warning("delete_meets_a_commit", stream=selection.stream, error=str(err))
        raise Unavailable("TABLE_CONTENDED", stream=selection.stream)

    def forget(self, selection: Selection, keep: Collection[int]) -> None:
        self._vacuum(selection, keep, keep_h=0)

    def copies(self) -> set[str]:
        with self._store_errors(Selection(COPIES, 0, ())):
            uri = delta_table_uri(self._uri, COPIES)
            return {copy_in(path) for path in files_below(uri, self._options)} - {""}

    def drop(self, copy: str) -> None:
        with self._store_errors(Selection(copy, 0, ())):
            uri = delta_table_uri(self._uri, COPIES, copy)
            below = files_below(uri, self._options)
            # Below one of a version before lie the others of its dataset.
            own = [path for path in below if copy_in(f"{copy}/{path}") == copy]
            remove_some(uri, self._options, own)

    def clean(self, selection: Selection, keep: Collection[int], *, keep_h: int) -> None:
        with self._store_errors(selection):
            newest = self._newest(selection)
            remove_orphans(newest, self._place(selection), self._options, _there(newest, keep))
        self._vacuum(selection, keep, keep_h=keep_h)
        failpoint("ingest.keep.vacuumed")
        if selection.view:  # its versions are read for as long as their files are there
            return
        with self._store_errors(selection):
            self._newest(selection).cleanup_metadata()  # of the log what is 30 days old

    def _vacuum(self, selection: Selection, keep: Collection[int], *, keep_h: int) -> None:
        """Only what the log calls removed: a file that is being written is not in it yet."""
        with self._store_errors(selection):
            newest = self._newest(selection)
            newest.vacuum(
                retention_hours=keep_h,
                dry_run=False,
                enforce_retention_duration=False,
                keep_versions=_there(newest, keep),
            )

    def _newest(self, selection: Selection) -> DeltaTable:
        return DeltaTable(self._place(selection), storage_options=self._options)

    def _place(self, selection: Selection) -> str:
        if selection.copy:
            return delta_table_uri(self._uri, COPIES, selection.copy)
        if selection.view:
            return delta_table_uri(self._uri, "features", selection.view)
        return delta_table_uri(self._uri, "records", selection.stream)

    def _table(self, selection: Selection) -> DeltaTable:
        """Of the stream or view itself, also where the selection has a copy."""
        return self._newest(replace(selection, copy=""))

    @contextmanager
    def _store_errors(self, selection: Selection) -> Iterator[None]:
        try:
            yield
        except TableNotFoundError as err:
            if selection.view:
                raise NotFound("VIEW_EMPTY", view=selection.view) from err
            if self._was_read(selection.stream):
                raise Unavailable("ARCHIVE_MISSING", stream=selection.stream) from err
            raise NotFound("STREAM_EMPTY", stream=selection.stream) from err
        except CommitFailedError as err:
            raise Unavailable("TABLE_CONTENDED", stream=selection.stream) from err
        except (DeltaError, OSError) as err:
            raise Unavailable("OBJECT_STORE_UNAVAILABLE", stream=selection.stream) from err


def _there(table: DeltaTable, versions: Collection[int]) -> list[int]:
    """Datasets may name those of a table before, which was lost: vacuum refuses all for one."""
    return sorted(each for each in versions if each <= table.version())


def _file(path: str) -> str:
    """Its name, which no other file of a table has."""
    return path.rpartition("/")[2]

# SPDX-License-Identifier: Apache-2.0
"""Archive on ingest's Delta tables `records/<stream>`, which this service only reads.

`txn` actions of the app id `ingest|<topic id>|<partition>|<counter>` say how far each partition of
the raw topic is stored, atomically with the rows; see `completeness` for what is made of that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from headrace.errors import NotFound, Unavailable
from headrace_feature.adapters.archive_waits import WAIT_S_MAX, ArchiveWaits
from headrace_feature.adapters.arrow_archive import ID, ArrowSnapshot
from headrace_feature.adapters.kafka_topics import RawTopic
from headrace_feature.domain.completeness import StoredPartition, StreamReach
from headrace_feature.ports import Snapshot, never_gone
from headrace_kit.clock import Clock
from headrace_kit.delta_scans import arrow_dataset
from headrace_kit.objects import delta_table_uri


@dataclass(frozen=True, slots=True)
class History:
    """All that was published before some moment, and the newest known time of it.

    `files_sha256` tells the version from one of the same number of a table that was begun anew.
    """

    snapshot: ArrowSnapshot
    newest_known_us: int
    files_sha256: str


class DeltaArchive:
    """Archive in a folder or on S3. deltalake and pyarrow are imported at the first call.

    `was_archived`: whether a stream that has no table had one. It is Unavailable ARCHIVE_MISSING
    then, wherever the table is needed: nothing is made of it as if there were no records.
    """

    def __init__(
        self,
        uri: str,
        storage_options: Mapping[str, str],
        *,
        raw_topic: Callable[[str], RawTopic],
        was_archived: Callable[[str], bool],
        clock: Clock,
        wait_s_max: float = WAIT_S_MAX,
    ) -> None:
        self._uri, self._options = uri, dict(storage_options)
        self._raw_topic, self._was_archived, self._clock = raw_topic, was_archived, clock
        self._waits = ArchiveWaits(self._look, wait_s_max=wait_s_max)

    def snapshots(
        self,
        streams: Collection[str],
        known_until_us: int,
        *,
        published: bool = False,
        gone: Callable[[], bool] = never_gone,
    ) -> Mapping[str, Snapshot]:
        with self._waits.admitted(gone) as wait:
            looks = {
                stream: wait.complete(stream, known_until_us, published=published)
                for stream in sorted(streams)
            }
        return {stream: self._snapshot(look.table) for stream, look in looks.items()}

    def reaches(self, streams: Collection[str]) -> Mapping[str, StreamReach]:
        return {stream: self._look(stream)[0] for stream in sorted(streams)}

    def _look(self, stream: str) -> tuple[StreamReach, Any]:
        """The ends are asked for first: what the table holds of them was published before."""
        asked_us = self._clock.now_us()
        raw_topic, table = self._raw_topic(stream), self._open(stream)
        return StreamReach(stream, asked_us, _partitions(table, raw_topic)), table

    def newest(self, streams: Collection[str]) -> Mapping[str, Snapshot]:
        return {stream: self._at(stream, None) for stream in sorted(streams)}

    def at(self, version_by_stream: Mapping[str, int]) -> Mapping[str, Snapshot]:
        return {stream: self._at(stream, each) for stream, each in version_by_stream.items()}

    def exists(self, stream: str) -> bool:
        return self._open(stream) is not None

    def history(self, stream: str, raw_topic: RawTopic, version: int | None = None) -> History:
        """The newest version if it accounts for all that is before these ends; or the given one.

        Raises Unavailable RECORDS_BEHIND, NotFound ARCHIVE_VERSION_UNKNOWN.
        """
        table = self._open(stream, version)
        if table is None:
            raise NotFound("ARCHIVE_VERSION_UNKNOWN", stream=stream, version=version)
        for partition, end in raw_topic.end_by_partition.items():
            if version is None and _offset(table, raw_topic, partition) < end:
                raise Unavailable("RECORDS_BEHIND", stream=stream, partition=partition, end=end)
        newest = [
            _counter(table, raw_topic, number, "known_time") or 0
            for number in raw_topic.end_by_partition
        ]
        files = "\n".join(sorted(table.file_uris()))
        digest = hashlib.sha256(files.encode()).hexdigest()
        return History(self._snapshot(table), max(newest, default=0), digest)

    def _at(self, stream: str, version: int | None) -> Snapshot:
        table = self._open(stream, version)
        if table is None:
            raise NotFound("ARCHIVE_VERSION_UNKNOWN", stream=stream, version=version)
        return self._snapshot(table, pinned=version is not None)

    def _snapshot(self, table: Any, *, pinned: bool = False) -> ArrowSnapshot:
        from pyarrow.dataset import ParquetReadOptions

        texts = [field.name for field in table.schema().fields if _holds_texts(field)]
        read = ParquetReadOptions(dictionary_columns=[name for name in texts if name != ID])
        counts = table.get_add_actions(flatten=True)["num_records"].to_pylist()
        return ArrowSnapshot(
            version=int(table.version()),
            observations=sum(counts),
            dataset=arrow_dataset(table, self._options, read_options=read),
            pinned=pinned,
        )

    def _open(self, stream: str, version: int | None = None) -> Any:
        """None where there is no table yet, or no such version of it any more."""
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        uri = delta_table_uri(self._uri, "records", stream)
        try:
            table = DeltaTable(uri, storage_options=self._options)
            if version is not None:
                if not 0 <= version <= table.version():
                    return None
                table.load_as_version(version)
        except TableNotFoundError as err:
            if self._was_archived(stream):
                raise Unavailable("ARCHIVE_MISSING", stream=stream) from err
            return None
        except (DeltaError, OSError) as err:
            raise Unavailable("OBJECT_STORE_UNAVAILABLE", stream=stream) from err
        return table


def _partitions(table: Any, raw_topic: RawTopic) -> Mapping[int, StoredPartition]:
    if table is None:
        ends = raw_topic.end_by_partition.items()
        return {number: StoredPartition(0, end, None, None) for number, end in ends}
    # What nothing was ever published to is as quiet as the table is old.
    made_us = (table.metadata().created_time or 0) * 1_000 or None
    return {
        number: StoredPartition(
            offset=_offset(table, raw_topic, number),
            end=end,
            known_us=_counter(table, raw_topic, number, "known_time"),
            accounted_us=_counter(table, raw_topic, number, "accounted_at") if end else made_us,
        )
        for number, end in raw_topic.end_by_partition.items()
    }


def _counter(table: Any, raw_topic: RawTopic, partition: int, counter: str) -> int | None:
    found: int | None = table.transaction_version(f"ingest|{raw_topic.id}|{partition}|{counter}")
    return found


def _offset(table: Any, raw_topic: RawTopic, partition: int) -> int:
    """The first offset that is not accounted for."""
    return _counter(table, raw_topic, partition, "offset") or 0


def _holds_texts(field: Any) -> bool:
    return getattr(field.type, "type", None) == "string"

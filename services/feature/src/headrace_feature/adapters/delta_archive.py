# SPDX-License-Identifier: Apache-2.0
"""Archive on ingest's Delta tables `records/<stream>`, which this service only reads.

A table is complete for a moment when each partition of the raw topic has stored something known
after it: `txn` actions of the app id `ingest|<topic id>|<partition>|known_time` say how far each
came, atomically with the rows. A partition that has stored nothing must have nothing to store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from headrace.errors import NotFound, Unavailable
from headrace_feature.adapters.arrow_archive import ID, ArrowSnapshot
from headrace_feature.adapters.kafka_topics import RawTopic
from headrace_feature.ports import Snapshot
from headrace_kit.objects import delta_table_uri

WAIT_S_MAX = 60.0
POLL_INTERVAL_S = 0.25


@dataclass(frozen=True, slots=True)
class History:
    """All that was published before some moment, and the newest known time of it."""

    snapshot: ArrowSnapshot
    newest_known_us: int


class DeltaArchive:
    """Archive in a folder or on S3. deltalake and pyarrow are imported at the first call."""

    def __init__(
        self,
        uri: str,
        storage_options: Mapping[str, str],
        *,
        raw_topic: Callable[[str], RawTopic],
        wait_s_max: float = WAIT_S_MAX,
    ) -> None:
        self._uri, self._options = uri, dict(storage_options)
        self._raw_topic, self._wait_s_max = raw_topic, wait_s_max

    def snapshots(self, streams: Collection[str], known_until_us: int) -> Mapping[str, Snapshot]:
        deadline_s = time.monotonic() + self._wait_s_max
        return {
            stream: self._complete(stream, known_until_us, deadline_s) for stream in sorted(streams)
        }

    def known_to(self, streams: Collection[str]) -> int:
        return min(self._known_to(stream) for stream in streams)

    def _known_to(self, stream: str) -> int:
        raw_topic, table = self._raw_topic(stream), self._open(stream)
        return -1 if table is None else _known_to(table, raw_topic)

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
        newest = [_known_us(table, raw_topic, number) or 0 for number in raw_topic.end_by_partition]
        return History(_snapshot(table), max(newest, default=0))

    def _at(self, stream: str, version: int | None) -> Snapshot:
        table = self._open(stream, version)
        if table is None:
            raise NotFound("ARCHIVE_VERSION_UNKNOWN", stream=stream, version=version)
        return _snapshot(table)

    def _complete(self, stream: str, known_until_us: int, deadline_s: float) -> Snapshot:
        raw_topic = self._raw_topic(stream)
        while True:
            table = self._open(stream)
            if table is not None and _known_to(table, raw_topic) >= known_until_us:
                return _snapshot(table)
            if time.monotonic() >= deadline_s:
                raise Unavailable("RECORDS_BEHIND", stream=stream, known_until_us=known_until_us)
            time.sleep(POLL_INTERVAL_S)

    def _open(self, stream: str, version: int | None = None) -> Any:
        """None where there is no table, or no such version of it any more."""
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        uri = delta_table_uri(self._uri, "records", stream)
        try:
            table = DeltaTable(uri, storage_options=self._options)
            if version is not None:
                if not 0 <= version <= table.version():
                    return None
                table.load_as_version(version)
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as err:
            raise Unavailable("OBJECT_STORE_UNAVAILABLE", stream=stream) from err
        return table


def _known_to(table: Any, raw_topic: RawTopic) -> int:
    """The last moment of which all that was known is stored, or -1."""
    stored = []
    for partition, end in raw_topic.end_by_partition.items():
        known_us = _known_us(table, raw_topic, partition)
        if known_us is not None:
            stored.append(known_us - 1)
        elif _offset(table, raw_topic, partition) < end:
            return -1
    return min(stored, default=-1)


def _known_us(table: Any, raw_topic: RawTopic, partition: int) -> int | None:
    """The newest known time of what is stored of a raw partition."""
    found: int | None = table.transaction_version(f"ingest|{raw_topic.id}|{partition}|known_time")
    return found


def _offset(table: Any, raw_topic: RawTopic, partition: int) -> int:
    """The first offset that is not accounted for."""
    return table.transaction_version(f"ingest|{raw_topic.id}|{partition}|offset") or 0


def _snapshot(table: Any) -> ArrowSnapshot:
    from pyarrow.dataset import ParquetReadOptions

    texts = [field.name for field in table.schema().fields if _holds_texts(field)]
    options = ParquetReadOptions(dictionary_columns=[name for name in texts if name != ID])
    counts = table.get_add_actions(flatten=True)["num_records"].to_pylist()
    return ArrowSnapshot(
        version=int(table.version()),
        observations=sum(counts),
        dataset=table.to_pyarrow_dataset(parquet_read_options=options),
    )


def _holds_texts(field: Any) -> bool:
    return getattr(field.type, "type", None) == "string"

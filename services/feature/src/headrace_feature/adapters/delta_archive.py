# SPDX-License-Identifier: Apache-2.0
"""Archive on ingest's Delta tables `records/<stream>`, which this service only reads.

A table is complete for a moment when each partition of the raw topic has stored something known
after it: `txn` actions of the app id `ingest|<topic id>|<partition>|known_time` say how far each
came, atomically with the rows. A partition that has stored nothing must have nothing to store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from headrace.errors import Unavailable
from headrace_feature.adapters.kafka_topics import RawTopic
from headrace_feature.domain.records import Numbers, Records, Texts
from headrace_feature.ports import Snapshot
from headrace_kit.objects import delta_table_uri

WAIT_S_MAX = 60.0
POLL_INTERVAL_S = 0.25
ID, EVENT_TIME, KNOWN_TIME = "_event_id", "_event_time_us", "_known_time_us"


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

    def _complete(self, stream: str, known_until_us: int, deadline_s: float) -> Snapshot:
        raw_topic = self._raw_topic(stream)
        while True:
            table = self._open(stream)
            if table is not None and _holds(table, raw_topic, known_until_us):
                return DeltaSnapshot(table)
            if time.monotonic() >= deadline_s:
                raise Unavailable("RECORDS_BEHIND", stream=stream, known_until_us=known_until_us)
            time.sleep(POLL_INTERVAL_S)

    def _open(self, stream: str) -> Any:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        uri = delta_table_uri(self._uri, "records", stream)
        try:
            return DeltaTable(uri, storage_options=self._options)
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as err:
            raise Unavailable("OBJECT_STORE_UNAVAILABLE", stream=stream) from err


def _holds(table: Any, raw_topic: RawTopic, known_until_us: int) -> bool:
    stored = False
    for partition, end in raw_topic.end_by_partition.items():
        counter = f"ingest|{raw_topic.id}|{partition}|"
        known_us = table.transaction_version(counter + "known_time")
        if known_us is None:
            if (table.transaction_version(counter + "offset") or 0) < end:
                return False
        elif known_us <= known_until_us:
            return False
        stored = stored or known_us is not None
    return stored


class DeltaSnapshot:
    """Snapshot of one table version."""

    def __init__(self, table: Any) -> None:
        self._table = table

    @property
    def version(self) -> int:
        return int(self._table.version())

    def records(self, columns: Collection[str], known_until_us: int) -> Records:
        import pyarrow as pa
        import pyarrow.compute as pc

        dataset = self._table.to_pyarrow_dataset()
        archived = [column for column in columns if column in dataset.schema.names]
        try:
            table = dataset.to_table(
                columns=[*archived, ID, EVENT_TIME, KNOWN_TIME],
                filter=pc.field(KNOWN_TIME) <= known_until_us,
            )
        except (OSError, pa.ArrowException) as err:
            raise Unavailable("OBJECT_STORE_UNAVAILABLE", table=self._table.table_uri) from err
        found = {column: _to_column(table[column]) for column in archived}
        absent = Numbers(np.zeros(len(table), np.int64), np.zeros(len(table), np.bool_))
        return Records(
            id_rank=pc.rank(table[ID], tiebreaker="dense").to_numpy().astype(np.int64),
            event_us=table[EVENT_TIME].to_numpy(),
            known_us=table[KNOWN_TIME].to_numpy(),
            columns={column: found.get(column, absent) for column in columns},
        )


def _to_column(values: Any) -> Texts | Numbers:
    import pyarrow as pa

    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        coded = values.combine_chunks().dictionary_encode()
        codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        return Texts(codes, coded.dictionary.to_pylist())
    kind = pa.float64() if pa.types.is_floating(values.type) else pa.int64()
    dense = values.cast(kind).fill_null(0)
    return Numbers(dense.to_numpy(), values.is_valid().to_numpy())

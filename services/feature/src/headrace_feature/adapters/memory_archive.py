# SPDX-License-Identifier: Apache-2.0
"""Archive of a test: rows as dictionaries; complete for a moment once something later is known."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from headrace.errors import NotFound, Unavailable
from headrace_feature.adapters.arrow_archive import EVENT_TIME, ID, KNOWN_TIME, ArrowSnapshot

Row = Mapping[str, Any]


class MemoryArchive:
    """Archive of rows by stream; each row has the columns `_event_id`, `_event_time_us` and
    `_known_time_us` beside its own. Version n is the first n rows."""

    def __init__(self, rows_by_stream: Mapping[str, Sequence[Row]]) -> None:
        self._rows_by_stream = rows_by_stream

    def snapshots(
        self, streams: Collection[str], known_until_us: int
    ) -> Mapping[str, ArrowSnapshot]:
        for stream in streams:
            if self.known_to([stream]) < known_until_us:
                raise Unavailable("RECORDS_BEHIND", stream=stream, known_until_us=known_until_us)
        return self.newest(streams)

    def known_to(self, streams: Collection[str]) -> int:
        newest = [
            [row[KNOWN_TIME] for row in self._rows_by_stream.get(each, ())] for each in streams
        ]
        return min(max(each, default=0) - 1 for each in newest)

    def newest(self, streams: Collection[str]) -> Mapping[str, ArrowSnapshot]:
        return self.at({each: len(self._rows_by_stream.get(each, ())) for each in streams})

    def at(self, version_by_stream: Mapping[str, int]) -> Mapping[str, ArrowSnapshot]:
        found = {}
        for stream, version in version_by_stream.items():
            rows = self._rows_by_stream.get(stream, ())
            if not 0 <= version <= len(rows):
                raise NotFound("ARCHIVE_VERSION_UNKNOWN", stream=stream, version=version)
            found[stream] = _snapshot(rows[:version])
        return found


def _snapshot(rows: Sequence[Row]) -> ArrowSnapshot:
    import pyarrow as pa
    from pyarrow.dataset import dataset

    names = sorted({name for row in rows for name in row} - {ID, EVENT_TIME, KNOWN_TIME})
    fixed = {
        ID: pa.array([row[ID] for row in rows], pa.string()),
        EVENT_TIME: pa.array([row[EVENT_TIME] for row in rows], pa.int64()),
        KNOWN_TIME: pa.array([row[KNOWN_TIME] for row in rows], pa.int64()),
    }
    own = {name: _column([row.get(name) for row in rows]) for name in names}
    return ArrowSnapshot(len(rows), len(rows), dataset(pa.table({**fixed, **own})))


def _column(values: Sequence[Any]) -> Any:
    """Texts with their dictionary, as a Delta table is read."""
    import pyarrow as pa

    column = pa.array(values)
    return column.dictionary_encode() if pa.types.is_string(column.type) else column

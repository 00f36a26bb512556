# SPDX-License-Identifier: Apache-2.0
"""Archive of a test: rows as dictionaries, of one partition, at most `quiet` of which is told."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from headrace.errors import NotFound, Unavailable
from headrace_feature.adapters.arrow_archive import EVENT_TIME, ID, KNOWN_TIME, ArrowSnapshot
from headrace_feature.domain.completeness import StoredPartition, StreamReach
from headrace_feature.ports import never_gone

Row = Mapping[str, Any]
ASKED_US = 1_700_000_000_000_000


class MemoryArchive:
    """Archive of rows by stream; each row has the columns `_event_id`, `_event_time_us` and
    `_known_time_us` beside its own. Version n is the first n rows. `quiet`: the streams that got
    nothing for long; `unarchived`: how many published records are not there yet."""

    def __init__(
        self,
        rows_by_stream: Mapping[str, Sequence[Row]],
        *,
        quiet: Collection[str] = (),
        unarchived: Mapping[str, int] | None = None,
    ) -> None:
        self._rows_by_stream, self._quiet = rows_by_stream, quiet
        self._unarchived = unarchived or {}

    def snapshots(
        self,
        streams: Collection[str],
        known_until_us: int,
        *,
        published: bool = False,
        gone: Callable[[], bool] = never_gone,
    ) -> Mapping[str, ArrowSnapshot]:
        for stream, reach in self.reaches(streams).items():
            if not (published and reach.holds_published(reach)) and not reach.holds(known_until_us):
                raise Unavailable("RECORDS_BEHIND", stream=stream, waits_for=reach.waits_for)
        return self.newest(streams)

    def reaches(self, streams: Collection[str]) -> Mapping[str, StreamReach]:
        return {stream: self._reach(stream) for stream in streams}

    def _reach(self, stream: str) -> StreamReach:
        known = [row[KNOWN_TIME] for row in self._rows_by_stream.get(stream, ())]
        end = len(known) + self._unarchived.get(stream, 0)
        accounted_us = 0 if stream in self._quiet else None
        stored = StoredPartition(len(known), end, max(known, default=None), accounted_us)
        return StreamReach(stream, ASKED_US, {0: stored})

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

# SPDX-License-Identifier: Apache-2.0
"""Archive of a test: rows as dictionaries; complete for a moment once something later is known."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.errors import Unavailable
from headrace_feature.domain.records import Numbers, Records, Texts

Row = Mapping[str, Any]
ID, EVENT_TIME, KNOWN_TIME = "_event_id", "_event_time_us", "_known_time_us"


@dataclass(frozen=True, slots=True)
class MemorySnapshot:
    """Snapshot of rows; the version is their number."""

    rows: Sequence[Row]

    @property
    def version(self) -> int:
        return len(self.rows)

    def records(self, columns: Collection[str], known_until_us: int) -> Records:
        known = [row for row in self.rows if row[KNOWN_TIME] <= known_until_us]
        rank = {name: place for place, name in enumerate(sorted({row[ID] for row in known}))}
        return Records(
            id_rank=np.array([rank[row[ID]] for row in known], dtype=np.int64),
            event_us=np.array([row[EVENT_TIME] for row in known], dtype=np.int64),
            known_us=np.array([row[KNOWN_TIME] for row in known], dtype=np.int64),
            columns={name: _column([row.get(name) for row in known]) for name in columns},
        )


class MemoryArchive:
    """Archive of rows by stream; each row has the columns `_event_id`, `_event_time_us` and
    `_known_time_us` beside its own."""

    def __init__(self, rows_by_stream: Mapping[str, Sequence[Row]]) -> None:
        self._rows_by_stream = rows_by_stream

    def snapshots(
        self, streams: Collection[str], known_until_us: int
    ) -> Mapping[str, MemorySnapshot]:
        for stream in streams:
            rows = self._rows_by_stream.get(stream, ())
            if max((row[KNOWN_TIME] for row in rows), default=0) <= known_until_us:
                raise Unavailable("RECORDS_BEHIND", stream=stream, known_until_us=known_until_us)
        return {stream: MemorySnapshot(self._rows_by_stream[stream]) for stream in streams}


def _column(values: Sequence[Any]) -> Texts | Numbers:
    if any(isinstance(value, str) for value in values):
        place: dict[str, int] = {}
        codes = [-1 if v is None else place.setdefault(v, len(place)) for v in values]
        return Texts(np.array(codes, dtype=np.int64), list(place))
    present = np.array([value is not None for value in values], dtype=np.bool_)
    filled = [value or 0 for value in values]
    if any(isinstance(value, float) for value in values):
        return Numbers(np.array(filled, dtype=np.float64), present)
    return Numbers(np.array(filled, dtype=np.int64), present)

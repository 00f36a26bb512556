# SPDX-License-Identifier: Apache-2.0
"""Runs from a pinned version of the archive, a batch of records at a time.

They hold what the fold would have made of the same records on `ingest.records.<stream>`: the
records' partition there is that of their key, for ingest sends a record with the key it came with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from headrace.application import Stream
from headrace.errors import NotFound, Unavailable
from headrace_feature.adapters.arrow_archive import EVENT_TIME, ID, KNOWN_TIME, ArrowSnapshot
from headrace_feature.adapters.conversions import (
    ENVELOPE,
    MOMENT_MAX,
    observations_of,
    types_of,
)
from headrace_feature.adapters.staged_runs import Filling
from headrace_feature.domain.key_partitions import key_partitions
from headrace_feature.domain.observations import Ids, Run, run_of
from headrace_feature.domain.views import Layout
from headrace_kit.erased_entities import ErasedEntities

KEY = "_key"
BATCH_ROWS = 1 << 17
# As they are called on the stream; the archive does not tell when a record was published.
STORED = dict(zip(ENVELOPE, (ID, EVENT_TIME, KNOWN_TIME, None), strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Archived:
    """What one version of a stream's archive holds for a layout, without erased entities."""

    snapshot: ArrowSnapshot
    layout: Layout
    stream: Stream
    erased: ErasedEntities

    def files(self, filling: Filling) -> list[Any]:
        """Those that may hold what is wanted, in an order that is the same each time."""
        files = self.snapshot.dataset.get_fragments(filter=_wanted(filling))
        return sorted(files, key=lambda file: str(file.path))

    def runs(self, file: Any, filling: Filling) -> Iterator[Run]:
        """Of what the file holds, each of BATCH_ROWS rows at most.

        Raises NotFound ARCHIVE_VERSION_UNKNOWN when the file is gone, else Unavailable.
        """
        types = types_of(self.stream, [self.layout], self.erased)
        there = set(self.snapshot.dataset.schema.names)
        names = {**STORED, **{name: name for name in types}, KEY: KEY}
        columns = [
            pl.col(stored).cast(dtype).alias(name)
            if (stored := names[name]) in there
            else pl.lit(None, dtype).alias(name)
            for name, dtype in {**ENVELOPE, **types, KEY: pl.String()}.items()
        ]
        read = sorted({stored for stored in names.values() if stored in there} - {None})
        for batch in self._batches(file, read, filling):
            run = self._run_of(batch.select(columns), filling)
            if len(run):
                yield run

    def _batches(self, file: Any, names: Sequence[str], filling: Filling) -> Iterator[pl.DataFrame]:
        import pyarrow as pa

        try:
            batches = file.to_batches(
                schema=self.snapshot.dataset.schema,
                columns=names,
                filter=_wanted(filling),
                batch_size=BATCH_ROWS,
                batch_readahead=1,  # what is read ahead is in memory
                fragment_readahead=1,
            )
            for batch in batches:
                if batch.num_rows:
                    yield pl.DataFrame(pl.from_arrow(batch))
        except FileNotFoundError as err:
            raise NotFound("ARCHIVE_VERSION_UNKNOWN", version=self.snapshot.version) from err
        except (OSError, pa.ArrowException) as err:
            raise Unavailable("OBJECT_STORE_UNAVAILABLE", version=self.snapshot.version) from err

    def _run_of(self, frame: pl.DataFrame, filling: Filling) -> Run:
        keys = Ids.of(frame[KEY].fill_null("").cast(pl.Binary).to_list())
        partitions = key_partitions(keys, filling.partition_count)
        ours = np.isin(partitions, filling.partitions)
        frame, partitions = frame.filter(pl.Series(ours)), partitions[ours]
        offsets = np.zeros(len(partitions), dtype=np.int64)  # no run keeps them
        observations = observations_of(
            frame, [self.layout], self.erased, partitions=partitions, offsets=offsets
        )
        counted = ~observations.erased
        if self.layout.filter is not None:
            counted &= observations.counted[self.layout.filter.text]
        return run_of(observations, self.layout, np.flatnonzero(counted))


def _wanted(filling: Filling) -> Any:
    """Not older than the floor; the fold sets aside what has no id or no possible time."""
    import pyarrow.compute as pc

    event_us, known_us = pc.field(EVENT_TIME), pc.field(KNOWN_TIME)
    possible = (event_us >= 0) & (event_us < MOMENT_MAX) & (known_us >= 0) & (known_us < MOMENT_MAX)
    return possible & (event_us >= filling.floor_us) & (pc.field(ID) != "")

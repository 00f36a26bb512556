# SPDX-License-Identifier: Apache-2.0
"""Events that are to be in no run, known by id and event time, as a run knows its own.

A run holds no more of a record than its view needs, so the entity of an erasure is not to be found
in it; the ids that ingest tells are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headrace_feature.domain.observations import EVENT, ID_HASH, Ids, Ints, Run, Words, ordered


@dataclass(frozen=True, slots=True, eq=False)
class ErasedEvents:
    """Of one stream; `named`: event time and id of each, `hashes`: of their ids."""

    hashes: Words
    named: frozenset[tuple[int, bytes]]

    @classmethod
    def of(cls, ids: Sequence[bytes], event_us: Sequence[int]) -> ErasedEvents:
        named = frozenset(zip(event_us, ids, strict=True))
        return cls(np.unique(Ids.of(ids).hashes()), named)

    def rows(self, run: Run, first: int = 0, last: int | None = None) -> Ints:
        """Which rows of the run, of those from `first` to `last`, excluded, they are."""
        hashes = run.matrix[first:last, ID_HASH].view(np.uint64)
        alike = np.flatnonzero(np.isin(hashes, self.hashes)) + first
        moments_us = run.matrix[alike, EVENT].tolist()
        rows = zip(alike.tolist(), moments_us, strict=True)
        found = [row for row, event_us in rows if (event_us, run.ids[row]) in self.named]
        return np.array(found, dtype=np.int64)


def without(run: Run, events: ErasedEvents) -> Run:
    """The same run, or one of its other rows."""
    rows = events.rows(run)
    if not len(rows):
        return run
    kept = np.delete(np.arange(len(run)), rows)
    entities = run.entities.repeat(np.diff(run.starts), axis=1)
    return ordered(entities[:, kept], run.matrix[kept], run.ids.taken(kept))

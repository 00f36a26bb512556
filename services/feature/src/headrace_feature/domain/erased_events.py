# SPDX-License-Identifier: Apache-2.0
"""Events that are to be in no run, known by id and event time, as a run knows its own.

A run holds no more of a record than its view needs, so the entity of an erasure is not to be found
in it; the ids that ingest tells are. Where the view is by that entity its digest is there too, and
names what no id was told of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from headrace_feature.domain.observations import (
    EVENT,
    ID_HASH,
    AnyRun,
    Ids,
    Ints,
    Run,
    Words,
    listed,
    ordered,
)
from headrace_feature.domain.views import Layout


@dataclass(frozen=True, slots=True)
class ErasedKey:
    """An entity by one column, as runs name it: the halves of its digest; up to a moment."""

    column: str
    high: int
    low: int
    until_us: int

    @classmethod
    def of(cls, column: str, digest: bytes, until_us: int) -> ErasedKey:
        return cls(column, int.from_bytes(digest[:8]), int.from_bytes(digest[8:]), until_us)

    def rows(self, run: AnyRun) -> Ints:
        """The run's rows of the entity."""
        first, last = (
            int(run.entities[0].searchsorted(np.uint64(self.high), side))
            for side in ("left", "right")
        )
        ours = np.flatnonzero(run.entities[1, first:last] == self.low) + first
        begins, ends = run.bounds(ours)
        found = listed(begins, ends - begins)
        return found[run.rows(found)[:, EVENT] <= self.until_us]


@dataclass(frozen=True, slots=True, eq=False)
class ErasedEvents:
    """Of one stream; `named`: event time and id of each, `hashes`: of their ids."""

    hashes: Words
    named: frozenset[tuple[int, bytes]]
    keys: tuple[ErasedKey, ...] = ()

    @classmethod
    def of(
        cls, ids: Sequence[bytes], event_us: Sequence[int], keys: Sequence[ErasedKey] = ()
    ) -> ErasedEvents:
        named = frozenset(zip(event_us, ids, strict=True))
        return cls(np.unique(Ids.of(ids).hashes()), named, tuple(dict.fromkeys(keys)))

    def __bool__(self) -> bool:
        return bool(self.named or self.keys)

    def in_layout(self, layout: Layout) -> ErasedEvents:
        """With the keys that name an entity there."""
        keys = tuple(each for each in self.keys if layout.entity == (each.column,))
        return replace(self, keys=keys)

    def rows(self, run: AnyRun, first: int = 0, last: int | None = None) -> Ints:
        """Which rows of the run, of those from `first` to `last`, excluded, they are."""
        last = len(run) if last is None else min(last, len(run))
        by_key = [each.rows(run) for each in self.keys]
        found = np.unique(np.concatenate([self._named(run, first, last), *by_key]))
        return found[(found >= first) & (found < last)]

    def _named(self, run: AnyRun, first: int, last: int) -> Ints:
        hashes = run.stretch(first, last)[:, ID_HASH].view(np.uint64)
        alike = np.flatnonzero(np.isin(hashes, self.hashes)) + first
        return np.array(list(self._sure(run, alike)), dtype=np.int64)

    def _sure(self, run: AnyRun, alike: Ints) -> Iterator[int]:
        moments_us, ids = run.rows(alike)[:, EVENT].tolist(), run.ids_of(alike)
        for number, event_us in enumerate(moments_us):
            if (event_us, ids[number]) in self.named:
                yield int(alike[number])


def without(run: Run, events: ErasedEvents) -> Run:
    """The same run, or one of its other rows."""
    rows = events.rows(run)
    if not len(rows):
        return run
    kept = np.delete(np.arange(len(run)), rows)
    return ordered(run.per_row()[:, kept], run.matrix[kept], run.ids.taken(kept))

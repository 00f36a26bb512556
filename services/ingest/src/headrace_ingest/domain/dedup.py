# SPDX-License-Identifier: Apache-2.0
"""Which event ids one raw partition has stored, so that none is stored twice (P2).

An id is remembered while its known time lies within the horizon behind the newest one and its row
is among the last `ids_max` that were stored. Both are functions of the stored rows alone, so an
index that was rebuilt from the archive decides as the one that died would have. Deciding changes
nothing: what is new is remembered when it was delivered, and a batch that failed is decided again
from the same state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

HORIZON_US = 7 * 86_400 * 1_000_000
# What is forgotten is removed only when the index is this much larger: that costs a copy.
SLACK = 1.125


class Outcome(Enum):
    """What an event id says about its record."""

    NEW = "new"
    REPEAT = "repeat"
    CONFLICT = "conflict"


class Seen(NamedTuple):
    """An accepted record: event id, sha256 of its payload, known time."""

    event_id: str
    payload_sha256: bytes
    known_time_us: int


# What is remembered of an id: sha256 of its payload, known time, and its rank, which counts the
# rows that were stored before its own. A plain tuple: a named one costs as much as all the rest.
Stored = tuple[bytes, int, int]


@dataclass(frozen=True, slots=True)
class Decided:
    """Outcomes in the order asked, and what to remember once the records are delivered."""

    outcomes: Sequence[Outcome]
    fresh: Mapping[str, Stored]
    rows: int
    newest_us: int

    @property
    def some_old(self) -> bool:
        """Whether a record is a repeat or a conflict."""
        return len(self.fresh) < len(self.outcomes)


class DedupIndex:
    """The remembered ids of one partition.

    `seen` are the rows stored last, from old to new: `ids_max` of them, or all that there are.
    `newest_us` is the newest known time of all rows. Ranks are compared only with each other.
    """

    def __init__(
        self,
        *,
        ids_max: int,
        horizon_us: int = HORIZON_US,
        seen: Iterable[Seen] = (),
        newest_us: int = 0,
    ) -> None:
        self._ids_max, self._horizon_us = ids_max, horizon_us
        ranked = [
            (each.event_id, (each.payload_sha256, each.known_time_us, rank))
            for rank, each in enumerate(seen)
        ]
        self._known, self._rows, self._newest_us = dict(ranked), len(ranked), newest_us
        self._cut_us = 0  # newest time at the last cut

    def __len__(self) -> int:
        return len(self._known)

    def decide(
        self, event_ids: Sequence[str], payloads: Sequence[bytes], known_us: Sequence[int]
    ) -> Decided:
        """Outcome of each record as if those before it were stored already."""
        if self._all_new(event_ids):
            ranks = range(self._rows, self._rows + len(event_ids))
            stored = zip(payloads, known_us, ranks, strict=True)
            newest_us = max(self._newest_us, max(known_us, default=0))
            fresh = dict(zip(event_ids, stored, strict=True))
            return Decided([Outcome.NEW] * len(ranks), fresh, ranks.stop, newest_us)
        return self._decide_each(event_ids, payloads, known_us)

    def _all_new(self, event_ids: Sequence[str]) -> bool:
        distinct = set(event_ids)
        return len(distinct) == len(event_ids) and distinct.isdisjoint(self._known)

    def _decide_each(
        self, event_ids: Sequence[str], payloads: Sequence[bytes], known_us: Sequence[int]
    ) -> Decided:
        known, rows, newest_us = self._known, self._rows, self._newest_us
        fresh: dict[str, Stored] = {}
        outcomes = []
        for event_id, payload, moment_us in zip(event_ids, payloads, known_us, strict=True):
            found = fresh.get(event_id) or known.get(event_id)
            if found is None or self._forgotten(found, rows, newest_us):
                fresh[event_id] = (payload, moment_us, rows)
                rows, newest_us = rows + 1, max(newest_us, moment_us)
                outcomes.append(Outcome.NEW)
            else:
                outcomes.append(Outcome.REPEAT if found[0] == payload else Outcome.CONFLICT)
        return Decided(outcomes, fresh, rows, newest_us)

    def remember(self, decided: Decided) -> None:
        """Take over what was new in a batch whose records are delivered."""
        self._known.update(decided.fresh)
        self._rows, self._newest_us = decided.rows, decided.newest_us
        aged = self._newest_us - self._cut_us > self._horizon_us // 7
        if aged or len(self._known) > self._ids_max * SLACK:
            self._cut()

    def _forgotten(self, stored: Stored, rows: int, newest_us: int) -> bool:
        _, known_time_us, rank = stored
        return rank < rows - self._ids_max or known_time_us < newest_us - self._horizon_us

    def _cut(self) -> None:
        rows, newest_us = self._rows, self._newest_us
        self._known = {
            event_id: stored
            for event_id, stored in self._known.items()
            if not self._forgotten(stored, rows, newest_us)
        }
        self._cut_us = newest_us

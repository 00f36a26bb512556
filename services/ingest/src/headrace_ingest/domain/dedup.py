# SPDX-License-Identifier: Apache-2.0
"""Which event ids one raw partition has stored, so that none is stored twice (P2).

An id is remembered while its known time lies within the horizon behind the newest one and it is
among the last `ids_max`. Both are functions of the stored rows alone, so an index that was rebuilt
from the archive decides as the one that died would have. Deciding changes nothing: what is new is
remembered when it was delivered, and a batch that failed is decided again from the same state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import NamedTuple

HORIZON_US = 7 * 86_400 * 1_000_000
# The tail of `ids_max` is cut back only when it is this much longer: a cut costs a copy.
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


@dataclass(frozen=True, slots=True)
class Decided:
    """Outcomes in the order asked, and what to remember once the records are delivered."""

    outcomes: Sequence[Outcome]
    fresh: dict[str, tuple[bytes, int]]
    newest_us: int


class DedupIndex:
    """The remembered ids of one partition, oldest first."""

    def __init__(self, *, ids_max: int, horizon_us: int = HORIZON_US) -> None:
        self._ids_max, self._horizon_us = ids_max, horizon_us
        self._known: dict[str, tuple[bytes, int]] = {}
        self._newest_us = 0
        self._cut_us = 0  # newest time at the last cut

    def __len__(self) -> int:
        return len(self._known)

    def decide(self, records: Iterable[Seen]) -> Decided:
        """Outcome of each record as if those before it were stored already."""
        known, newest_us = self._known, self._newest_us
        fresh: dict[str, tuple[bytes, int]] = {}
        outcomes = []
        for event_id, payload, known_us in records:
            found = fresh.get(event_id) or known.get(event_id)
            if found is None or found[1] < newest_us - self._horizon_us:
                fresh[event_id] = (payload, known_us)
                newest_us = max(newest_us, known_us)
                outcomes.append(Outcome.NEW)
            else:
                outcomes.append(Outcome.REPEAT if found[0] == payload else Outcome.CONFLICT)
        return Decided(outcomes, fresh, newest_us)

    def remember(self, decided: Decided) -> None:
        """Take over what was new in a batch whose records are delivered."""
        for event_id in decided.fresh.keys() & self._known.keys():
            del self._known[event_id]  # forgotten by time, not yet cut: it moves to the end
        self._known.update(decided.fresh)
        self._newest_us = decided.newest_us
        if self._newest_us - self._cut_us > self._horizon_us // 7:
            self._cut_us, floor_us = self._newest_us, self._newest_us - self._horizon_us
            self._known = {key: seen for key, seen in self._known.items() if seen[1] >= floor_us}
        if len(self._known) > self._ids_max * SLACK:
            beyond = len(self._known) - self._ids_max
            self._known = dict(islice(self._known.items(), beyond, None))

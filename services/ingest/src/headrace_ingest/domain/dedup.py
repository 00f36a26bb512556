# SPDX-License-Identifier: Apache-2.0
"""Which event ids one raw partition has stored, so that none is stored twice (P2).

An id is remembered while its row is among the last `ids_max` that were stored. That is a function
of the stored rows alone, so an index that was rebuilt from the archive decides as the one that died
would have. No time counts: who sends the records of a month again sends old ones behind new ones.
Deciding changes nothing: what is new is remembered when it was delivered, and a batch that failed
is decided again from the same state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import count, takewhile
from typing import NamedTuple

DIGEST_BYTES = 32
# What is forgotten is removed only when the index is this much larger: that costs a walk.
SLACK = 1.125


class Outcome(Enum):
    """What an event id says about its record."""

    NEW = "new"
    REPEAT = "repeat"
    CONFLICT = "conflict"


class Seen(NamedTuple):
    """An accepted record: event id, sha256 of its payload."""

    event_id: str
    payload_sha256: bytes


@dataclass(frozen=True, slots=True)
class Fresh:
    """New records in their order, by columns: to be remembered once they are delivered."""

    event_ids: Sequence[str]
    payloads: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Decided:
    """What is new, and the outcomes in the order asked; none when every record is new."""

    fresh: Fresh
    outcomes: Sequence[Outcome] = ()


# What is remembered of an id: sha256 of its payload, and its rank, which counts the rows that were
# stored before its own. Ranks are compared only with each other.
Stored = tuple[bytes, int]


@dataclass(slots=True)
class _Rows:
    """What is remembered by rank, from `base` on: in one object, for one a row costs far more."""

    base: int = 0
    digests: bytearray = field(default_factory=bytearray)

    def __len__(self) -> int:
        return len(self.digests) // DIGEST_BYTES

    @property
    def end(self) -> int:
        return self.base + len(self)

    def at(self, rank: int) -> Stored:
        row = rank - self.base
        digest = self.digests[row * DIGEST_BYTES : (row + 1) * DIGEST_BYTES]
        return bytes(digest), rank

    def append(self, fresh: Fresh) -> None:
        self.digests += b"".join(fresh.payloads)

    def cut(self, floor: int) -> None:
        """Forget the rows of lower rank."""
        gone = max(0, floor - self.base)
        del self.digests[: gone * DIGEST_BYTES]
        self.base += gone


class DedupIndex:
    """The remembered ids of one partition.

    `seen` are the rows stored last, from old to new: `ids_max` of them, or all that there are.
    """

    def __init__(self, *, ids_max: int, seen: Iterable[Seen] = ()) -> None:
        self._ids_max = ids_max
        self._ranks: dict[str, int] = {}  # from old to new
        self._rows = _Rows()
        self._append(_fresh(seen), distinct=False)

    def __len__(self) -> int:
        return len(self._ranks)

    def decide(self, event_ids: Sequence[str], payloads: Sequence[bytes]) -> Decided:
        """Outcome of each record as if those before it were stored already."""
        distinct = set(event_ids)
        # The view walks over the shorter of the two, a set would walk over the whole dict.
        if len(distinct) == len(event_ids) and self._ranks.keys().isdisjoint(distinct):
            return Decided(Fresh(event_ids, payloads))
        return self._decide_each(map(Seen, event_ids, payloads))

    def _decide_each(self, records: Iterable[Seen]) -> Decided:
        rows = self._rows.end
        new, outcomes = list[Seen](), list[Outcome]()
        stored = dict[str, Stored]()
        for record in records:
            event_id, payload = record
            found = stored.get(event_id) or self._stored(event_id)
            if found is None or found[1] < rows - self._ids_max:
                stored[event_id] = (payload, rows)
                new.append(record)
                rows += 1
                outcomes.append(Outcome.NEW)
            else:
                outcomes.append(Outcome.REPEAT if found[0] == payload else Outcome.CONFLICT)
        return Decided(_fresh(new), outcomes)

    def _stored(self, event_id: str) -> Stored | None:
        rank = self._ranks.get(event_id)
        return None if rank is None else self._rows.at(rank)

    def remember(self, decided: Decided) -> None:
        """Take over what was new in a batch whose records are delivered."""
        self._append(decided.fresh, distinct=not decided.outcomes)
        if len(self._rows) > self._ids_max * SLACK:
            self._cut(self._rows.end - self._ids_max)

    def _append(self, fresh: Fresh, *, distinct: bool) -> None:
        ranked = zip(fresh.event_ids, count(self._rows.end), strict=False)
        if distinct:
            self._ranks.update(ranked)
        else:
            for event_id, rank in ranked:  # forgotten and stored again, an id moves to the end
                self._ranks.pop(event_id, None)
                self._ranks[event_id] = rank
        self._rows.append(fresh)

    def _cut(self, floor: int) -> None:
        for event_id, _ in list(takewhile(lambda known: known[1] < floor, self._ranks.items())):
            del self._ranks[event_id]
        self._rows.cut(floor)


def _fresh(records: Iterable[Seen]) -> Fresh:
    columns = list(zip(*records, strict=True))
    return Fresh(*columns) if columns else Fresh((), ())

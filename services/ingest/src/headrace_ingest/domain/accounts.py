# SPDX-License-Identifier: Apache-2.0
"""The account of one raw partition: every record is stored, a dead letter, or a repeat (P13).

Its counters are cumulative and travel with the rows, in one Delta commit, as versions of `txn`
actions: after any crash the account says exactly what the table holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from headrace.reasons import REASONS

RECORD_REASONS = tuple(name for name, reason in REASONS.items() if reason.records)
DEAD = "dead|"
OFFSET = "offset"
KNOWN_TIME = "known_time"


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the records before `offset`, the next one that is not accounted for.

    `late` is a part of `stored`. `known_time_us` is the greatest known time stored: the watermark.
    `redriven` are dead letters that came again and were judged: stored now, or dead letters once
    more, so that those that wait are the dead ones less the redriven.
    """

    offset: int = 0
    stored: int = 0
    late: int = 0
    repeats: int = 0
    dead_by_reason: Mapping[str, int] = field(default_factory=dict)
    known_time_us: int = 0
    redriven: int = 0

    @property
    def received(self) -> int:
        return self.stored + self.repeats + sum(self.dead_by_reason.values())

    def counters(self) -> dict[str, int]:
        """The values by counter name; a counter at zero is absent."""
        named = {
            OFFSET: self.offset,
            "stored": self.stored,
            "late": self.late,
            "repeats": self.repeats,
            "redriven": self.redriven,
            KNOWN_TIME: self.known_time_us,
            **{DEAD + reason: count for reason, count in self.dead_by_reason.items()},
        }
        return {name: value for name, value in named.items() if value}

    def plus(self, more: Account) -> Account:
        """This account and one of the records that came after it."""
        return replace(
            self,
            offset=max(self.offset, more.offset),
            stored=self.stored + more.stored,
            late=self.late + more.late,
            repeats=self.repeats + more.repeats,
            dead_by_reason=dict(Counter(self.dead_by_reason) + Counter(more.dead_by_reason)),
            known_time_us=max(self.known_time_us, more.known_time_us),
            redriven=self.redriven + more.redriven,
        )


def account_of(counter: Callable[[str], int | None]) -> Account:
    """The account whose counters are answered by name; None counts as zero."""
    dead = {reason: counter(DEAD + reason) or 0 for reason in RECORD_REASONS}
    return Account(
        offset=counter(OFFSET) or 0,
        stored=counter("stored") or 0,
        late=counter("late") or 0,
        repeats=counter("repeats") or 0,
        dead_by_reason={reason: count for reason, count in dead.items() if count},
        known_time_us=counter(KNOWN_TIME) or 0,
        redriven=counter("redriven") or 0,
    )

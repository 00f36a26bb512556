# SPDX-License-Identifier: Apache-2.0
"""Dead letters as they stand: of a record only the last letter counts, until it is sent again.

A letter and what follows it lie in one partition of the topic, since they share a key. So a window
of letters is known exactly once the rest of the partition that it ends in was read too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from headrace_ingest.domain.faults import places_of


class Position(NamedTuple):
    """A place in the topic of dead letters; letters are told in this order."""

    partition: int
    offset: int

    @property
    def id(self) -> str:
        """How callers name the letter."""
        return f"{self.partition}-{self.offset}"


@dataclass(frozen=True, slots=True)
class Letter:
    """One record set aside; `partition` and `offset` are where it stood on its stream's raw topic.

    `stream` is empty when the topic is none of a stream; `told`: its reasons as in `Judged`.
    """

    position: Position
    stream: str
    partition: int
    offset: int
    told: str
    attempt: int
    set_aside_ms: int

    @property
    def reasons(self) -> tuple[str, ...]:
        """Each once, without what it is about."""
        return tuple(dict.fromkeys(reason for reason, _ in places_of(self.told)))


@dataclass(frozen=True, slots=True)
class Sent:
    """Says that the letter of a record was sent again, as often as `attempt`."""

    position: Position
    attempt: int


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters are meant; empty or 0 means all. Times are Kafka's for the letter."""

    stream: str = ""
    reason: str = ""
    since_ms: int = 0
    until_ms: int = 0
    positions: frozenset[Position] = frozenset()

    def takes(self, letter: Letter) -> bool:
        return (
            self.stream in ("", letter.stream)
            and (not self.reason or self.reason in letter.reasons)
            and letter.set_aside_ms >= self.since_ms
            and (not self.until_ms or letter.set_aside_ms < self.until_ms)
            and (not self.positions or letter.position in self.positions)
        )


@dataclass(slots=True)
class Window:
    """At most `letters_max` selected letters; `following`: the first one that found no room."""

    selection: Selection
    letters_max: int
    following: Position | None = None
    _letters: dict[bytes, Letter] = field(default_factory=dict)
    _sent: dict[bytes, int] = field(default_factory=dict)

    def read(self, entries: Iterable[tuple[bytes, Letter | Sent]]) -> None:
        """Take what a partition holds, in its order, by the record's key."""
        for key, entry in entries:
            if isinstance(entry, Sent):
                if key in self._letters:
                    self._sent[key] = max(entry.attempt, self._sent.get(key, 0))
            else:
                self._take(key, entry)

    def _take(self, key: bytes, letter: Letter) -> None:
        self._letters.pop(key, None)
        if not self.selection.takes(letter):
            return
        if self.following is None and len(self._letters) < self.letters_max:
            self._letters[key] = letter
        elif self.following is None:
            self.following = letter.position

    def found(self) -> bool:
        """Whether there is any letter."""
        return bool(self._letters)

    def letters(self) -> Iterator[tuple[Letter, bool]]:
        """The letters in their order, and whether each was sent again."""
        for key, letter in self._letters.items():
            yield letter, self._sent.get(key, 0) >= letter.attempt

    def waiting(self) -> list[Letter]:
        return [letter for letter, sent in self.letters() if not sent]

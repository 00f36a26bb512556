# SPDX-License-Identifier: Apache-2.0
"""What functions said of records until now, and what becomes of it when they are asked again.

A weak label does not name its record: records of one key and event time share what stands.
Where its stream says when a label became known, the id says so too: published again before the
archive holds it, it is another record, and not another payload under an id that is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import NamedTuple

from headrace.label_definition import NO_VOTES

KNOWN_AT = "-"


class Place(NamedTuple):
    """Whom a label is about, and when it was so."""

    key: str
    event_us: int


@dataclass(frozen=True, slots=True)
class WeakLabel:
    """Says `answer` for the `votes`, as JSON; one with NO_VOTES takes back what stood."""

    id: str
    place: Place
    answer: str
    votes: str

    def known_at(self, known_us: int) -> WeakLabel:
        return replace(self, id=f"{self.id}{KNOWN_AT}{known_us}")


@dataclass(frozen=True, slots=True)
class StandingLabels:
    """`last_by_place`: the one that counts; `ids`: of all that there ever were, untimed."""

    last_by_place: Mapping[Place, WeakLabel]
    ids: Set[str]

    @classmethod
    def of(cls, held: Iterable[WeakLabel]) -> StandingLabels:
        """In the order in which they became known."""
        labels = list(held)
        ids = {each.id.partition(KNOWN_AT)[0] for each in labels}
        return cls({each.place: each for each in labels}, ids)

    def new(self, labels: Iterable[WeakLabel]) -> Iterator[WeakLabel]:
        """Those of the labels that do not stand yet, each with an id that makes it count.

        An id that is there already says nothing new: what was said since then would stand.
        """
        labels = list(labels)
        answers = {(each.place, each.answer) for each in labels}
        for each in labels:
            last = self.last_by_place.get(each.place)
            if last is None or each.id not in self.ids:
                yield each
            elif not _says_one_of(last, answers):
                yield WeakLabel(digest(each.id, last.id), each.place, each.answer, each.votes)

    def taken_back(self, asked: Iterable[Place], labels: Iterable[WeakLabel]) -> list[WeakLabel]:
        """What takes back the labels of the places that were asked about and got none now."""
        gone = dict.fromkeys(asked)
        for each in labels:
            gone.pop(each.place, None)
        standing = (self.last_by_place.get(place) for place in gone)
        return [
            WeakLabel(digest("taken back", last.id), last.place, last.answer, NO_VOTES)
            for last in standing
            if last is not None and _stands(last)
        ]


def digest(*parts: str) -> str:
    return blake2b("|".join(parts).encode(), digest_size=16).hexdigest()


def _says_one_of(label: WeakLabel, answers: Set[tuple[Place, str]]) -> bool:
    return _stands(label) and (label.place, label.answer) in answers


def _stands(label: WeakLabel) -> bool:
    return label.votes != NO_VOTES

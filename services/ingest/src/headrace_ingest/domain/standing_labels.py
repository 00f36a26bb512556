# SPDX-License-Identifier: Apache-2.0
"""What functions said of records until now, and what becomes of it when they are asked again.

A weak label does not name its record: records of one key and event time share what stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

from headrace.label_definition import NO_VOTES


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


@dataclass(frozen=True, slots=True)
class StandingLabels:
    """`last_by_place`: the one that counts; `ids`: of all that there ever were."""

    last_by_place: Mapping[Place, WeakLabel]
    ids: Set[str]

    @classmethod
    def of(cls, held: Iterable[WeakLabel]) -> StandingLabels:
        """In the order in which they became known."""
        labels = list(held)
        return cls({each.place: each for each in labels}, {each.id for each in labels})

    def said(self, labels: Iterable[WeakLabel]) -> Iterator[WeakLabel]:
        """The same labels, each with an id that makes it count.

        An id that is there already says nothing new: what was said since then would stand.
        """
        labels = list(labels)
        answers = {(each.place, each.answer) for each in labels}
        for each in labels:
            last = self.last_by_place.get(each.place)
            if last is None or each.id not in self.ids or _says_one_of(last, answers):
                yield each
            else:
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

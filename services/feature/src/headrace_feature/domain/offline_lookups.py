# SPDX-License-Identifier: Apache-2.0
"""Columns from another stream in the offline windows: what each observation may find there.

What an observation finds is final from the moment when the last record that it can find was known;
before, it is looked up as of each question. No code is shared with the online read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace_feature.domain.history import History
from headrace_feature.domain.records import Numbers
from headrace_feature.domain.sorted_places import Extremes, Ints, Line


@dataclass(frozen=True, eq=False)
class Candidates:
    """Records of another stream that have a value, by key, event time and id.

    Observation k of the view finds the latest known from `first[k]` to before `last[k]`.
    """

    numbers: Numbers
    known_us: Ints
    first: Ints
    last: Ints

    @classmethod
    def of(cls, other: History, keys: Ints, event_us: Ints, *, max_age_us: int) -> Candidates:
        """`keys`: of each observation the entity of `other`, -1 for none. What none of them can
        find is left out."""
        line = Line(other.entity, other.event_us)
        first = line.places(keys, event_us - max_age_us)
        last = line.places(keys, event_us)
        reached = np.zeros(len(other.event_us) + 1, dtype=np.int64)
        np.add.at(reached, first, 1)
        np.subtract.at(reached, last, 1)
        [numbers] = other.columns
        kept = (np.cumsum(reached)[:-1] > 0) & numbers.present
        place = np.concatenate(([0], np.cumsum(kept)))
        return cls(
            Numbers(numbers.values[kept], numbers.present[kept]),
            other.known_us[kept],
            place[first],
            place[last],
        )

    @classmethod
    def joined(cls, parts: Sequence[Candidates]) -> Candidates:
        """One behind the other; an observation finds something in at most one of them."""
        before = np.cumsum([0, *(len(part.known_us) for part in parts)]).tolist()
        found = [part.last > part.first for part in parts]
        edges = zip(parts, before, found, strict=False)
        moved = [(f * (p.first + b), f * (p.last + b)) for p, b, f in edges]
        return cls(
            Numbers(
                np.concatenate([part.numbers.values for part in parts]),
                np.concatenate([part.numbers.present for part in parts]),
            ),
            np.concatenate([part.known_us for part in parts]),
            np.sum([first for first, _ in moved], axis=0),
            np.sum([last for _, last in moved], axis=0),
        )

    @cached_property
    def final(self) -> Ints:
        """[observations] what each finds when all is known, -1 for nothing."""
        return np.where(self.last > self.first, self.last - 1, -1)

    @property
    def final_numbers(self) -> Numbers:
        """[observations] what that is."""
        values, present = self.numbers.values, self.final >= 0
        found: NDArray[Any] = np.zeros(len(present), dtype=values.dtype)
        found[present] = values[self.final[present]]
        return Numbers(found, present)

    def settled_us(self, known_us: Ints) -> Ints:
        """[observations] from when on it is known, and finds what is final."""
        found = self.final >= 0
        settled = known_us.copy()
        settled[found] = np.maximum(known_us[found], self.known_us[self.final[found]])
        return settled

    def found(self, place: Ints, as_of_us: Ints) -> Ints:
        """What these observations find of what was known at the moments."""
        return self._known.last_at_most(self.first[place], self.last[place], as_of_us)

    @cached_property
    def _known(self) -> Extremes:
        return Extremes(self.known_us, np.ones(len(self.known_us), dtype=np.bool_), "min")

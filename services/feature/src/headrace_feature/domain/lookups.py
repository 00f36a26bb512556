# SPDX-License-Identifier: Apache-2.0
"""Columns from another stream, found when they are read: its latest value at the event's time.

Nothing is looked up when a record is folded: a record of the other stream that comes late would
leave what was folded before as it was. Both streams are kept as they came, and an answer is a
function of the two sets of records and the moment asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headrace_feature.domain.gathering import Block
from headrace_feature.domain.observations import COLUMNS, EVENT, FLAGS, KNOWN, Ints, Words
from headrace_feature.domain.views import LookedUp


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """The keys of a block's rows, each once, [2, keys]; `of_row`: which one, -1 for none."""

    digests: Words
    of_row: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Per row of a block, the range of the other stream's rows that it may take its value from.

    The last of them that was known and has a value is the one.
    """

    place: int
    other: Ints
    first: Ints
    last: Ints

    def found(self, rows: Ints, known_us: Ints) -> Ints:
        """Per row and moment, which of `other`; -1 for none."""
        first, place = self.first[rows], self.last[rows] - 1
        usable_us = np.where(self.other[:, FLAGS] & 1, self.other[:, KNOWN], 2**62)
        open_ = np.flatnonzero(place >= first)
        while len(open_ := open_[usable_us[place[open_]] > known_us[open_]]):
            place[open_] -= 1
            open_ = open_[place[open_] >= first[open_]]
        return np.where(place >= first, place, -1)


def keys_of(block: Block, looked_up: LookedUp) -> Keys:
    rows = block.matrix
    named = np.flatnonzero(rows[:, FLAGS] >> looked_up.key & 1)
    key = COLUMNS + looked_up.key
    halves = np.ascontiguousarray(rows[named, key : key + 2].T).view(np.uint64)
    digests, number = np.unique(halves, axis=1, return_inverse=True)
    of_row = np.full(len(rows), -1, dtype=np.int64)
    of_row[named] = number.ravel()
    return Keys(digests, of_row)


def matches_of(block: Block, keys: Keys, other: Block, looked_up: LookedUp) -> Matches:
    """`other`: the rows of the keys, in their order."""
    named = np.flatnonzero(keys.of_row >= 0)
    until_us, number = block.matrix[named, EVENT], keys.of_row[named]
    edges = np.zeros((2, len(block.matrix)), dtype=np.int64)
    for edge, moments_us in zip(edges, (until_us - looked_up.max_age_us, until_us), strict=True):
        edge[named] = _first_after(other, number, moments_us)
    return Matches(looked_up.place, other.matrix, *edges)


def _first_after(block: Block, entities: Ints, moments_us: Ints) -> Ints:
    """As the block's own, by ranks of times: so many keys have no place on one line of time."""
    times, rank = np.unique(block.matrix[:, EVENT], return_inverse=True)
    entity = np.arange(len(block.starts) - 1).repeat(np.diff(block.starts))
    line = entity * (len(times) + 1) + rank + 1
    asked = entities * (len(times) + 1) + times.searchsorted(moments_us, "right")
    return line.searchsorted(asked, "right")


def with_lookups(seen: Ints, matches: Sequence[Matches], rows: Ints, known_us: Ints) -> Ints:
    """The observations with what they look up, as it was known: `rows` of the block, one each."""
    width = COLUMNS + 1 + max(each.place for each in matches)
    wide = np.zeros((len(seen), width), dtype=np.int64)
    wide[:, : seen.shape[1]] = seen
    for each in matches:
        found = each.found(rows, known_us)
        present = found >= 0
        wide[present, COLUMNS + each.place] = each.other[found[present], COLUMNS]
        wide[:, FLAGS] |= present.astype(np.int64) << each.place
    return wide

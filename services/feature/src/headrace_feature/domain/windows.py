# SPDX-License-Identifier: Apache-2.0
"""The online read: every window of many rows at once, by listing the observations in each.

A question is a row (entity, as_of) of a view and a window: it sees an observation when event time
is between the window's edges and known time is at most as_of. What it sees is one run. Views that
are alike are answered together. Questions are taken in pieces, so that the pairs of question and
observation that are in memory at one time stay bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.feature_view import Q_UNITS
from headrace_feature.domain.aggregates import Group, Runs, aggregate, group_of, nothing
from headrace_feature.domain.edges import Window
from headrace_feature.domain.gathering import Block
from headrace_feature.domain.lookups import Matches, with_lookups
from headrace_feature.domain.observations import KNOWN
from headrace_feature.domain.plans import PLANS_MAX, Plan, WindowPart
from headrace_feature.domain.views import Kind

PAIRS_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class Picks:
    """Where the values of a group go: per value its place in the answer, which of the family's
    windows it has, which of the group's columns it is.
    """

    group: Group
    slots: NDArray[np.int64]
    windows: NDArray[np.int64]
    places: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Family:
    """Parts with equal columns and aggregates; `windows` holds those of each part."""

    parts: Sequence[WindowPart]
    windows: Sequence[Sequence[Window]]
    picks: Sequence[Picks]


@dataclass(frozen=True, slots=True)
class Seen:
    """What one part of a family has to see: `slots`: per row its entity's in the block, or -1.

    `matches`: what its observations may look up; then it is the only part.
    """

    block: Block
    slots: NDArray[np.int64]
    matches: Sequence[Matches] = ()


@lru_cache(maxsize=PLANS_MAX)
def families(plan: Plan) -> Sequence[Family]:
    """The windows of a plan by what their observations hold and what is asked of them."""
    parts = sorted(plan.windows, key=_likeness)
    return [_family(list(alike)) for _, alike in groupby(parts, key=_likeness)]


def _likeness(part: WindowPart) -> tuple[Any, ...]:
    asked = sorted({(each.column, each.feature.aggregate) for each in part.asked})
    # What looks up is a family of its own: its rows are matched with another stream's.
    alone = part.asked[0].slot if part.lookups else -1
    return part.layout.columns, part.layout.kinds, asked, alone


def _family(parts: Sequence[WindowPart]) -> Family:
    windows = [sorted({Window.of(each.feature) for each in part.asked}) for part in parts]
    found: dict[tuple[str, Kind], list[tuple[int, int, int, int]]] = {}
    before = 0
    for part, own in zip(parts, windows, strict=True):
        for asked in part.asked:
            feature = asked.feature
            kind = part.kind(asked.column) if asked.column >= 0 else "int64"
            window = before + own.index(Window.of(feature))
            argument = round(feature.q * Q_UNITS) if feature.q is not None else asked.place
            pick = asked.slot, window, asked.column, argument
            found.setdefault((feature.aggregate, kind), []).append(pick)
        before += len(own)
    return Family(parts, windows, [_picks(*name, picks) for name, picks in found.items()])


def _picks(name: str, kind: Kind, picks: Sequence[tuple[int, int, int, int]]) -> Picks:
    slots, windows, columns, arguments = np.array(picks, dtype=np.int64).T
    distinct, places = np.unique(np.stack((columns, arguments)), axis=1, return_inverse=True)
    return Picks(group_of(name, kind, *distinct), slots, windows, places.ravel())


def answer(
    family: Family, parts: Sequence[Seen], as_of_us: NDArray[np.int64], answers: NDArray[np.float64]
) -> None:
    """Fill the family's slots of `answers` [rows, features]; NaN where a window holds no value.

    `parts`: one for each part of the family.
    """
    matrix = parts[0].block.matrix
    if len(parts) > 1:
        matrix = np.concatenate([part.block.matrix for part in parts])
    first, last = _ranges(family, parts, as_of_us)
    asked_us = np.concatenate([as_of_us] * (len(first) // len(as_of_us)))
    grids = [nothing(picks.group, len(first)) for picks in family.picks]
    for piece in _pieces(last - first):
        runs = _runs(matrix, first[piece], last[piece], asked_us[piece])
        if len(runs.questions):
            seen = matrix[runs.observations]
            if parts[0].matches:
                known_us = asked_us[piece][runs.questions].repeat(runs.counts)
                seen = with_lookups(seen, parts[0].matches, runs.observations, known_us)
            for picks, grid in zip(family.picks, grids, strict=True):
                grid[piece][runs.questions] = aggregate(picks.group, seen, runs)
    for picks, grid in zip(family.picks, grids, strict=True):
        by_window = grid.reshape(-1, len(as_of_us), grid.shape[1])
        answers[:, picks.slots] = by_window[picks.windows, :, picks.places].T


def _ranges(
    family: Family, parts: Sequence[Seen], as_of_us: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Per question (window by window, row by row), the range of its entity's observations."""
    ranges, before = [], 0
    for windows, part in zip(family.windows, parts, strict=True):
        named = np.flatnonzero(part.slots >= 0)
        edges_us = np.stack([window.edges(as_of_us[named]) for window in windows], axis=1)
        slots = np.tile(part.slots[named], 2 * len(windows))
        found = part.block.first_after(slots, edges_us.ravel())
        edges = np.zeros((2, len(windows), len(as_of_us)), dtype=np.int64)
        edges[:, :, named] = found.reshape(edges_us.shape) + before
        ranges.append(edges.reshape(2, -1))
        before += len(part.block.matrix)
    first, last = np.concatenate(ranges, axis=1)
    return first, last


def _pieces(lengths: NDArray[np.int64]) -> Iterator[slice]:
    """Runs of questions with at most PAIRS_MAX observations together, or one question."""
    ends, start = lengths.cumsum(), 0
    while start < len(lengths):
        before = ends[start - 1] if start else 0
        stop = max(int(ends.searchsorted(before + PAIRS_MAX, "right")), start + 1)
        yield slice(start, stop)
        start = stop


def _runs(
    matrix: NDArray[np.int64],
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    asked_us: NDArray[np.int64],
) -> Runs:
    """Of each question's range, what was known."""
    counts = last - first
    question = np.arange(len(first)).repeat(counts)
    observations = np.arange(len(question)) + (last - counts.cumsum())[question]
    known = matrix[observations, KNOWN] <= asked_us[question]
    if not known.all():
        observations = observations[known]
        counts = np.bincount(question[known], minlength=len(first))
    questions = counts.nonzero()[0]
    return Runs(questions, (counts.cumsum() - counts)[questions], counts[questions], observations)

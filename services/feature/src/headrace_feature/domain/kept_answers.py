# SPDX-License-Identifier: Apache-2.0
"""Answers that were given, for as long as they stay the answers.

The answer to (part of a view, entity) changes at known moments: when an observation leaves one of
its windows, when one that is there becomes visible, when a tumbling window ends. Until the first of
these, and while no new observation of the entity comes, it need not be computed again.

An answer belongs to what the layout held when it was made, which its positions name: the mapping of
next offsets, a new one for each change. `advance` carries the answers of untouched entities over
a batch, those too that are still being made; after any other change of positions nothing that was
kept is used.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from headrace_feature.domain.edges import Window
from headrace_feature.domain.gathering import Block
from headrace_feature.domain.observations import EVENT, KNOWN, Ints, Words, listed
from headrace_feature.domain.plans import WindowPart
from headrace_feature.domain.views import Layout

ANSWERS_MAX, TABLE_ANSWERS_MAX, TABLE_ANSWERS_MIN = 262_144, 65_536, 256
# So many reads may meet positions that no batch led to before they become the ones that count.
STRANGE_READS_MAX = 64
# A read that takes longer than so many batches keeps nothing.
BATCHES_REMEMBERED = 64
# An answer is kept for so long: what comes later need not be looked for.
KEPT_US_MAX = 3_600_000_000
Positions = Mapping[int, int]
Floats = NDArray[np.float64]


class KeptAnswers:
    """Any thread reads and keeps; `advance` is called by the one that folds.

    At most ANSWERS_MAX answers are kept; those of the part that was read longest ago go first.
    """

    def __init__(self) -> None:
        self._tables: OrderedDict[WindowPart, _Table] = OrderedDict()
        self._valid: dict[bytes, _Valid] = {}
        self._lock = threading.Lock()

    def find(
        self, part: WindowPart, positions: Positions, entities: Words, as_of_us: Ints
    ) -> tuple[Floats, NDArray[np.bool_]] | None:
        """[rows, values] of `part.asked`, and in which rows they are the answer.

        `entities`: [2, rows]. None where nothing is kept.
        """
        with self._lock:
            current = self._current(part.layout.id, positions)
            table = self._tables.get(part)
            if table is None or not current:
                return None
            self._tables.move_to_end(part)
            return table.find(entities, as_of_us)

    def keep(
        self,
        part: WindowPart,
        positions: Positions,
        entities: Words,
        as_of_us: Ints,
        until_us: Ints,
        values: Floats,
    ) -> None:
        """`values` are the answers from `as_of_us` until `until_us`, for what is held there."""
        with self._lock:
            if not self._current(part.layout.id, positions):
                return
            kept = self._valid[part.layout.id].untouched(positions, entities)
            if not kept.all():
                entities, as_of_us = entities[:, kept], as_of_us[kept]
                until_us, values = until_us[kept], values[kept]
            table = self._tables.setdefault(part, _Table(len(part.asked)))
            table.keep(entities, as_of_us, until_us, values)
            while sum(map(len, self._tables.values())) > ANSWERS_MAX:
                self._tables.popitem(last=False)

    def advance(
        self, layout: Layout, before: Positions, entities: Words, positions: Positions
    ) -> None:
        """A batch that touched these entities led from one set of positions to another."""
        with self._lock:
            valid = self._valid.get(layout.id)
            if valid is None or valid.positions is not before:
                self._begin(layout.id, positions)
                return
            valid.advance(entities[0], positions)
            touched = entities[0].tolist()
            for part, table in self._tables.items():
                if part.layout.id == layout.id:
                    table.forget(touched)

    def begin_anew(self, layout: Layout, positions: Positions) -> None:
        """What is held there has changed otherwise: nothing that was kept is used, or kept on."""
        with self._lock:
            self._begin(layout.id, positions)

    def _current(self, layout: bytes, positions: Positions) -> bool:
        valid = self._valid.get(layout)
        if valid is not None and valid.knows(positions):
            return True
        if valid is not None and valid.strange_reads < STRANGE_READS_MAX:
            valid.strange_reads += 1  # most likely `advance` is about to be told
            return False
        self._begin(layout, positions)
        return True

    def _begin(self, layout: bytes, positions: Positions) -> None:
        self._valid[layout] = _Valid(positions)
        for part in [part for part in self._tables if part.layout.id == layout]:
            del self._tables[part]


@dataclass(slots=True)
class _Valid:
    """The positions that a layout's answers belong to, and how many reads met others since.

    `batches`: the newest first, what was held before each and whom it touched.
    """

    positions: Positions
    strange_reads: int = 0
    batches: deque[tuple[Positions, Words]] = field(
        default_factory=lambda: deque(maxlen=BATCHES_REMEMBERED)
    )

    def advance(self, touched: Words, positions: Positions) -> None:
        self.batches.appendleft((self.positions, touched))
        self.positions, self.strange_reads = positions, 0

    def knows(self, positions: Positions) -> bool:
        """Whether batches led from these positions to the present ones."""
        return positions is self.positions or any(before is positions for before, _ in self.batches)

    def untouched(self, since: Positions, entities: Words) -> NDArray[np.bool_]:
        """Which entities no batch touched since there were these positions."""
        untouched = np.ones(entities.shape[1], dtype=np.bool_)
        after = self.positions
        for before, touched in self.batches:
            if after is since:
                break
            untouched &= ~np.isin(entities[0], touched)
            after = before
        return untouched


@dataclass(slots=True)
class _Table:
    """Answers by the first half of the entity's digest; two that share one push each other out.

    Full, it takes the place of the next answer that was not used since it was last looked at.
    """

    width: int
    places: dict[int, int] = field(default_factory=dict)
    turn: int = 0
    low: Words = field(init=False)
    since_us: Ints = field(init=False)
    until_us: Ints = field(init=False)
    used: NDArray[np.bool_] = field(init=False)
    values: Floats = field(init=False)
    high: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.low = np.zeros(TABLE_ANSWERS_MIN, dtype=np.uint64)
        self.since_us = np.zeros(TABLE_ANSWERS_MIN, dtype=np.int64)
        self.until_us = np.zeros(TABLE_ANSWERS_MIN, dtype=np.int64)
        self.used = np.zeros(TABLE_ANSWERS_MIN, dtype=np.bool_)
        self.values = np.zeros((TABLE_ANSWERS_MIN, self.width))

    def __len__(self) -> int:
        return len(self.high)

    def find(self, entities: Words, as_of_us: Ints) -> tuple[Floats, NDArray[np.bool_]]:
        places = np.array([*map(self.places.get, entities[0].tolist(), repeat(-1))])
        hit = (places >= 0) & (self.low[places] == entities[1])
        hit &= (self.since_us[places] <= as_of_us) & (as_of_us < self.until_us[places])
        self.used[places[hit]] = True
        return self.values[places], hit

    def keep(self, entities: Words, as_of_us: Ints, until_us: Ints, values: Floats) -> None:
        places = np.array([*map(self._place, entities[0].tolist())], dtype=np.int64)
        self.low[places], self.values[places] = entities[1], values
        self.since_us[places], self.until_us[places] = as_of_us, until_us

    def forget(self, touched: list[int]) -> None:
        """Their answers end; the places stay theirs."""
        places = [place for high in touched if (place := self.places.get(high)) is not None]
        self.until_us[places] = 0

    def _place(self, high: int) -> int:
        place = self.places.get(high)
        if place is None:
            place = self._free()
            self.places[high] = place
            self.high[place] = high
        return place

    def _free(self) -> int:
        if len(self.high) < TABLE_ANSWERS_MAX:
            if len(self.high) == len(self.low):
                self._grow()
            self.high.append(0)
            return len(self.high) - 1
        while self.used[self.turn]:
            self.used[self.turn] = False
            self.turn = (self.turn + 1) % TABLE_ANSWERS_MAX
        place, self.turn = self.turn, (self.turn + 1) % TABLE_ANSWERS_MAX
        del self.places[self.high[place]]
        return place

    def _grow(self) -> None:
        for name in ("low", "since_us", "until_us", "used", "values"):
            old = getattr(self, name)
            setattr(self, name, np.concatenate((old, np.zeros_like(old))))


def valid_until(block: Block, slots: Ints, as_of_us: Ints, windows: Sequence[Window]) -> Ints:
    """Per question (entity `slots[k]`, moment), a moment before which its answer does not change.

    The block holds of the entities all that is in the windows, and all of KEPT_US_MAX behind.
    """
    until_us = as_of_us + KEPT_US_MAX
    for window in windows:
        if window.tumbling:
            np.minimum(until_us, window.moves_us(as_of_us), out=until_us)
        elif len(block.matrix):
            np.minimum(until_us, _leaves_us(block, slots, as_of_us, window), out=until_us)
    seen_us = np.maximum(block.matrix[:, EVENT], block.matrix[:, KNOWN])
    if seen_us.max(initial=0) > as_of_us.min():
        starts, counts = block.starts[slots], np.diff(block.starts)[slots]
        rows, question = listed(starts, counts), np.arange(len(slots)).repeat(counts)
        to_come = seen_us[rows] > as_of_us[question]
        np.minimum.at(until_us, question[to_come], seen_us[rows[to_come]])
    return until_us


def _leaves_us(block: Block, slots: Ints, as_of_us: Ints, window: Window) -> Ints:
    """When the oldest observation in a sliding window leaves it."""
    first = block.first_after(slots, window.edges(as_of_us)[0])
    oldest_us = block.matrix[np.minimum(first, len(block.matrix) - 1), EVENT]
    there = first < block.starts[slots + 1]
    return np.where(there, oldest_us + window.length_us, as_of_us + KEPT_US_MAX)

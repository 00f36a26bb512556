# SPDX-License-Identifier: Apache-2.0
"""Observations on the kit's state store: a batch's runs and positions are durable together.

    o | layout id | number            a small run
    l | layout id | number            a large run: its arrays are in the folder of that name
    p | layout id | partition         next offset that the layout reads there
    f | layout id                     event time before which its observations may be gone

Runs are merged by tiers of size, so that a read looks into few of them and an observation is
rewritten a few times in its life. Small ones are merged with the batch that makes them too many,
large ones a piece at a time beside the work (`tend`). The store's own offsets are the furthest
that any layout of the stream came.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from headrace import topics
from headrace.errors import Busy
from headrace_feature.adapters.run_files import (
    folder_bytes,
    from_bytes,
    map_folder,
    scale_to_bytes,
    to_bytes,
    write_folder,
)
from headrace_feature.domain.observations import Run, Scale, merged
from headrace_feature.domain.views import Layout
from headrace_feature.ports import Folded
from headrace_kit.failpoints import failpoint
from headrace_kit.kafka import Partition
from headrace_kit.state_store import StateStore

SMALL, LARGE, POSITION, FLOOR = b"o", b"l", b"p", b"f"
NO_FLOOR_US = -(2**62)
ROWS_SMALL_MAX = 1 << 17
# A tier's runs are four times as long as those of the one below; so many become one.
TIER_RUNS, TIER_ROWS = 4, 256
PIECE_ROWS = 1 << 16
LAYOUT_BYTES = 8
_INT64, _PARTITION, _NUMBER = struct.Struct("<q"), struct.Struct(">I"), struct.Struct(">Q")


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """A run and its number in the layout."""

    number: int
    run: Run
    large: bool

    @property
    def tier(self) -> int:
        return (len(self.run) // TIER_ROWS).bit_length() // 2


@dataclass(slots=True)
class _State:
    """One layout; readers see `held`, which is swapped whole."""

    held: tuple[_Held, ...] = ()
    next_number: int = 0
    floor_us: int = NO_FLOOR_US
    next_by_partition: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class _Merge:
    """Runs on their way into one folder, a piece a step."""

    layout: bytes
    number: int
    sources: tuple[_Held, ...]
    scale: bytes
    steps: Iterator[None]


class RunStore:
    """ObservationStore; one thread writes, any thread reads.

    `folder_bytes_max` bounds the large runs; the state store has a bound of its own.
    """

    def __init__(self, store: StateStore, folder: Path, *, folder_bytes_max: int) -> None:
        self._store, self._folder, self._bytes_max = store, folder, folder_bytes_max
        self._states: dict[bytes, _State] = {}
        self._furthest: dict[str, dict[int, int]] = {}
        self._merge: _Merge | None = None
        self._open()

    def _open(self) -> None:
        for key, value in self._all(POSITION):
            state = self._state(key[1 : 1 + LAYOUT_BYTES])
            number = _PARTITION.unpack(key[-_PARTITION.size :])[0]
            state.next_by_partition = {**state.next_by_partition, number: _int(value)}
        for key, value in self._all(FLOOR):
            self._state(key[1:]).floor_us = _int(value)
        for kind in (LARGE, SMALL):
            for key, value in self._all(kind):
                self._take(key, value)
        self._note_furthest(self._store.offsets())
        self._remove_unknown_folders()

    def _take(self, key: bytes, value: bytes) -> None:
        layout, number = key[1 : 1 + LAYOUT_BYTES], _NUMBER.unpack(key[-_NUMBER.size :])[0]
        large = key.startswith(LARGE)
        run = map_folder(self._path(layout, number), value) if large else from_bytes(value)
        state = self._state(layout)
        state.held = (*state.held, _Held(number, run, large))
        state.next_number = max(state.next_number, number + 1)

    def runs(self, layout: Layout) -> Sequence[Run]:
        state = self._states.get(layout.id)
        return [each.run for each in state.held] if state is not None else []

    def commit(self, batch: Sequence[Folded]) -> None:
        self._check_room()
        puts: dict[bytes, bytes] = {}
        gone: list[bytes] = []
        changed: list[tuple[Folded, tuple[_Held, ...], int]] = []
        furthest: dict[Partition, int] = {}
        for folded in batch:
            layout, state = folded.layout.id, self._state(folded.layout.id)
            kept = tuple(each for each in state.held if each.run.newest_us >= folded.floor_us)
            fresh = _Held(state.next_number, folded.run, large=False)
            added = (*kept, fresh) if len(folded.run) else kept
            held, number = self._tidied(added, fresh.number + 1, folded.floor_us)
            puts |= _positions(folded)
            puts |= {_key(SMALL, layout, e.number): to_bytes(e.run) for e in held if e not in kept}
            gone += [_key_of(layout, each) for each in state.held if each not in held]
            changed.append((folded, held, number))
            for partition, offset in folded.next_by_partition.items():
                known = self.furthest_by_partition(folded.layout.stream).get(partition, 0)
                topic = topics.INGEST_RECORDS.of(folded.layout.stream)
                furthest[Partition(topic, partition)] = max(known, offset)
        for folded in batch:  # a floor is told before what lies behind it goes
            self._state(folded.layout.id).floor_us = folded.floor_us
        self._store.commit(puts, gone, furthest)
        for folded, held, number in changed:
            self._install(folded, held, number)
        self._note_furthest(furthest)

    def _check_room(self) -> None:
        held = [each.run for state in self._states.values() for each in state.held if each.large]
        stored = sum(map(folder_bytes, held))
        if stored >= self._bytes_max:
            raise Busy("STATE_FULL", path=self._folder.name, bytes_max=self._bytes_max)

    def _tidied(
        self, held: tuple[_Held, ...], number: int, floor_us: int
    ) -> tuple[tuple[_Held, ...], int]:
        """The same with small runs merged where a tier has too many; and the next number."""
        while sources := self._too_many(held, large=False):
            run = merged([each.run for each in sources], floor_us=floor_us)
            one = _Held(number, run, large=False)
            held = (*(each for each in held if each not in sources), one)
            number += 1
        return held, number

    def _too_many(self, held: tuple[_Held, ...], *, large: bool) -> tuple[_Held, ...]:
        """Runs of one tier that should be one, which would be large or not."""
        busy = self._merge.sources if self._merge is not None else ()
        by_tier: dict[int, list[_Held]] = {}
        for each in held:
            if each not in busy:
                by_tier.setdefault(each.tier, []).append(each)
        for _, alike in sorted(by_tier.items()):
            rows = sum(len(each.run) for each in alike)
            if len(alike) >= TIER_RUNS and large == (rows > ROWS_SMALL_MAX):
                return tuple(alike)
        return ()

    def _install(self, folded: Folded, held: tuple[_Held, ...], number: int) -> None:
        state = self._state(folded.layout.id)
        gone = [each for each in state.held if each not in held]
        state.held, state.next_number = held, number
        state.next_by_partition = {**state.next_by_partition, **folded.next_by_partition}
        if self._merge is not None and set(self._merge.sources) & set(gone):
            self._give_up(self._merge)
        self._remove(folded.layout.id, [each for each in gone if each.large])

    def tend(self) -> None:
        if self._merge is None:
            self._begin_merge()
        elif next(self._merge.steps, self) is self:
            self._end_merge(self._merge)

    def _begin_merge(self) -> None:
        for layout, state in self._states.items():
            if sources := self._too_many(state.held, large=True):
                number, state.next_number = state.next_number, state.next_number + 1
                runs = [each.run for each in sources]
                scale, newest_us = _scale(runs), max(run.newest_us for run in runs)
                pieces = _pieces(runs, floor_us=state.floor_us)
                steps = write_folder(self._path(layout, number), pieces, scale)
                stored = scale_to_bytes(runs[0].matrix.shape[1], scale, newest_us)
                self._merge = _Merge(layout, number, sources, stored, steps)
                return

    def _end_merge(self, merge: _Merge) -> None:
        state = self._states[merge.layout]
        run = map_folder(self._path(merge.layout, merge.number), merge.scale)
        one = _Held(merge.number, run, large=True)
        failpoint("feature.state.merged")
        self._store.commit(
            {_key_of(merge.layout, one): merge.scale},
            [_key_of(merge.layout, each) for each in merge.sources],
            {},
        )
        state.held = (one, *(each for each in state.held if each not in merge.sources))
        self._merge = None
        self._remove(merge.layout, [each for each in merge.sources if each.large])

    def _give_up(self, merge: _Merge) -> None:
        """Its sources are gone."""
        self._merge = None
        shutil.rmtree(self._path(merge.layout, merge.number), ignore_errors=True)

    def next_by_partition(self, layout: Layout) -> Mapping[int, int]:
        return self._state(layout.id).next_by_partition

    def furthest_by_partition(self, stream: str) -> Mapping[int, int]:
        return self._furthest.get(stream, {})

    def floor_us(self, layout: Layout) -> int:
        return self._state(layout.id).floor_us

    def retire(self, layouts: Collection[Layout]) -> None:
        gone = self._states.keys() - {layout.id for layout in layouts}
        if self._merge is not None and self._merge.layout in gone:
            self._give_up(self._merge)
        keys = [
            key
            for layout in gone
            for kind in (SMALL, LARGE, POSITION, FLOOR)
            for key, _ in self._all(kind + layout)
        ]
        if keys:
            self._store.commit({}, keys, {})
        for layout in gone:
            self._remove(layout, [each for each in self._states.pop(layout).held if each.large])

    def _state(self, layout: bytes) -> _State:
        return self._states.setdefault(layout, _State())

    def _note_furthest(self, offsets: Mapping[Partition, int]) -> None:
        for partition, offset in offsets.items():
            stream = topics.INGEST_RECORDS.part_of(partition.topic)
            self._furthest[stream] = {**self._furthest.get(stream, {}), partition.number: offset}

    def _path(self, layout: bytes, number: int) -> Path:
        return self._folder / layout.hex() / str(number)

    def _remove(self, layout: bytes, runs: Collection[_Held]) -> None:
        """A reader that still has a run goes on reading it: the files outlive their names."""
        for each in runs:
            shutil.rmtree(self._path(layout, each.number), ignore_errors=True)

    def _remove_unknown_folders(self) -> None:
        """What a process left that ended in a merge, or between a commit and its removal."""
        known = {
            self._path(layout, each.number)
            for layout, state in self._states.items()
            for each in state.held
            if each.large
        }
        for folder in self._folder.glob("*/*"):
            if folder not in known:
                shutil.rmtree(folder)

    def _all(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        yield from self._store.scan(prefix, prefix + b"\xff" * 32)


def _scale(runs: Sequence[Run]) -> Scale:
    entities = sum(run.entities.shape[1] for run in runs)
    oldest_us = min(run.scale.base_us for run in runs)
    return Scale.of(entities, oldest_us, max(run.newest_us for run in runs))


def _pieces(runs: Sequence[Run], *, floor_us: int) -> Iterator[Run]:
    """The merged run in pieces of about PIECE_ROWS, cut between entities."""
    longest = max(runs, key=len)
    share = min(1.0, PIECE_ROWS / max(sum(map(len, runs)), 1))
    every = max(1, int(longest.entities.shape[1] * share))
    # First halves that begin a piece; all entities with one first half stay together.
    cuts = np.unique(longest.entities[0, every::every])
    edges = [
        [0, *run.entities[0].searchsorted(cuts).tolist(), run.entities.shape[1]] for run in runs
    ]
    for place in range(len(cuts) + 1):
        slices = [
            run.sliced(own[place], own[place + 1]) for run, own in zip(runs, edges, strict=True)
        ]
        yield merged(slices, floor_us=floor_us)


def _positions(folded: Folded) -> dict[bytes, bytes]:
    layout = folded.layout.id
    positions = {
        POSITION + layout + _PARTITION.pack(number): _INT64.pack(offset)
        for number, offset in folded.next_by_partition.items()
    }
    return positions | {FLOOR + layout: _INT64.pack(folded.floor_us)}


def _key_of(layout: bytes, held: _Held) -> bytes:
    return _key(LARGE if held.large else SMALL, layout, held.number)


def _key(kind: bytes, layout: bytes, number: int) -> bytes:
    return kind + layout + _NUMBER.pack(number)


def _int(value: bytes) -> int:
    return int(_INT64.unpack(value)[0])

# SPDX-License-Identifier: Apache-2.0
"""Observations on the kit's state store: a batch's runs and positions are durable together.

    o | layout id | number            a small run
    l | layout id | number            a large run: its arrays are in the folder of that name
    p | layout id | partition         next offset that the layout reads there
    f | layout id                     event time before which its observations may be gone

Runs are merged by tiers of size, so that a read looks into few of them and an observation is
rewritten a few times in its life. Small ones are merged with the batch that makes them too many,
large ones a piece at a time beside the work (`tend`). Others keep what is theirs under other first
letters, some of it in the batch. The store's own offsets are the furthest
that any layout of the stream came.

Runs come from elsewhere too (`adopt`), and may hold rows of partitions that are not ours: a state
is a set of events, so they do no harm. A partition that is given up loses its positions at once;
its rows go when their runs are merged.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headrace import topics
from headrace.errors import Busy
from headrace_feature.adapters.resident import ResidentFiles
from headrace_feature.adapters.run_files import (
    folder_bytes,
    from_bytes,
    let_go,
    map_folder,
    scale_to_bytes,
    sync_folder,
    to_bytes,
    write_folder,
)
from headrace_feature.adapters.run_tiers import HeldRun, in_pieces, scale_of, too_many
from headrace_feature.domain.gathering import Wanted
from headrace_feature.domain.observations import Run, merged
from headrace_feature.domain.views import Layout
from headrace_feature.ports import Folded
from headrace_kit.failpoints import failpoint
from headrace_kit.kafka import Partition
from headrace_kit.state_store import StateStore

SMALL, LARGE, POSITION, FLOOR = b"o", b"l", b"p", b"f"
NO_FLOOR_US = -(2**62)
LAYOUT_BYTES = 8
MAPPED_BYTES_MAX = 96 << 20
READ_ENTITIES_MAX = 32  # between two looks at how much is resident
_INT64, _PARTITION, _NUMBER = struct.Struct("<q"), struct.Struct(">I"), struct.Struct(">Q")


@dataclass(slots=True)
class _State:
    """One layout; readers see `held`, which is swapped whole."""

    held: tuple[HeldRun, ...] = ()
    next_number: int = 0
    floor_us: int = NO_FLOOR_US
    next_by_partition: Mapping[int, int] = field(default_factory=dict)
    owned: frozenset[int] | None = None  # None: nobody said which partitions are ours
    restoring: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """What a layout holds; the runs hold all before the positions, down to the floor."""

    next_by_partition: Mapping[int, int]
    held: Sequence[HeldRun]
    floor_us: int


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A run that was made elsewhere: `head` and a folder for a large one, or bytes."""

    head: bytes = b""
    folder: Path | None = None
    stored: bytes = b""


@dataclass(frozen=True, slots=True, eq=False)
class _Merge:
    """Runs on their way into one folder, a piece a step."""

    layout: bytes
    number: int
    sources: tuple[HeldRun, ...]
    owned: frozenset[int] | None
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
        self._resident, self._read_entities = ResidentFiles(MAPPED_BYTES_MAX), 0
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
        mapped = map_folder(self._path(layout, number), value) if large else (from_bytes(value),)
        state = self._state(layout)
        state.held = (*state.held, HeldRun(number, *mapped))
        state.next_number = max(state.next_number, number + 1)

    def runs(self, layout: Layout) -> Sequence[Run]:
        state = self._states.get(layout.id)
        return [each.run for each in state.held] if state is not None else []

    def runs_of(self, layout: Layout, wanted: Wanted) -> Sequence[Run]:
        self._read_entities += wanted.entities.shape[1]
        if self._read_entities >= READ_ENTITIES_MAX:
            self._read_entities = 0
            self._keep_small()
        return self.runs(layout)

    def _keep_small(self) -> None:
        """Any thread may give pages back: who reads them meanwhile gets them anew."""
        if self._resident.grown():
            for state in list(self._states.values()):
                for each in state.held:
                    let_go(each.maps or ())
            self._resident.given_back()

    def commit(
        self, batch: Sequence[Folded], *, beside: Mapping[bytes, bytes | None] | None = None
    ) -> None:
        self._check_room()
        beside = beside or {}
        puts = {key: value for key, value in beside.items() if value is not None}
        gone = list(beside.keys() - puts.keys())
        changed: list[tuple[Folded, tuple[HeldRun, ...], int]] = []
        furthest: dict[Partition, int] = {}
        for folded in batch:
            layout, state = folded.layout.id, self._state(folded.layout.id)
            kept = tuple(each for each in state.held if each.run.newest_us >= folded.floor_us)
            fresh = HeldRun(state.next_number, folded.run)
            added = (*kept, fresh) if len(folded.run) else kept
            held, number = self._tidied(added, fresh.number + 1, folded.floor_us, state.owned)
            puts |= _positions(folded.layout, folded.next_by_partition, folded.floor_us)
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
        self,
        held: tuple[HeldRun, ...],
        number: int,
        floor_us: int,
        owned: frozenset[int] | None,
    ) -> tuple[tuple[HeldRun, ...], int]:
        """The same with small runs merged where a tier has too many; and the next number."""
        while sources := self._too_many(held, large=False):
            run = merged([each.run for each in sources], floor_us=floor_us, partitions=owned)
            one = HeldRun(number, run)
            held = (*(each for each in held if each not in sources), one)
            number += 1
        return held, number

    def _too_many(self, held: Sequence[HeldRun], *, large: bool) -> tuple[HeldRun, ...]:
        busy = self._merge.sources if self._merge is not None else ()
        return too_many([each for each in held if each not in busy], large=large)

    def _install(self, folded: Folded, held: tuple[HeldRun, ...], number: int) -> None:
        state = self._state(folded.layout.id)
        gone = [each for each in state.held if each not in held]
        state.held, state.next_number = held, number
        state.next_by_partition = {**state.next_by_partition, **folded.next_by_partition}
        if self._merge is not None and set(self._merge.sources) & set(gone):
            self._give_up(self._merge)
        self._remove(folded.layout.id, [each for each in gone if each.large])

    def tend(self) -> None:
        self._keep_small()
        if self._merge is None:
            self._begin_merge()
        elif next(self._merge.steps, self) is self:
            self._end_merge(self._merge)

    def _begin_merge(self) -> None:
        for layout, state in self._states.items():
            if sources := self._too_many(state.held, large=True):
                number, state.next_number = state.next_number, state.next_number + 1
                runs = [each.run for each in sources]
                scale, newest_us = scale_of(runs), max(run.newest_us for run in runs)
                pieces = in_pieces(runs, floor_us=state.floor_us, partitions=state.owned)
                steps = write_folder(self._path(layout, number), pieces, scale)
                stored = scale_to_bytes(runs[0].matrix.shape[1], scale, newest_us)
                self._merge = _Merge(layout, number, sources, state.owned, stored, steps)
                return

    def _end_merge(self, merge: _Merge) -> None:
        state = self._states[merge.layout]
        mapped = map_folder(self._path(merge.layout, merge.number), merge.scale)
        one = HeldRun(merge.number, *mapped)
        failpoint("feature.state.merged")
        self._store.commit(
            {_key_of(merge.layout, one): merge.scale},
            [_key_of(merge.layout, each) for each in merge.sources],
            {},
        )
        state.held = (one, *(each for each in state.held if each not in merge.sources))
        self._merge = None
        self._remove(merge.layout, [each for each in merge.sources if each.large])

    def own(
        self, layout: Layout, partitions: Collection[int], *, restoring: Collection[int] = ()
    ) -> None:
        state, owned = self._state(layout.id), frozenset(partitions)
        grown = state.owned is not None and not owned <= state.owned
        state.restoring, state.owned = frozenset(restoring), owned
        if grown and self._merge is not None and self._merge.layout == layout.id:
            self._give_up(self._merge)  # it would leave out what is ours again
        if left := state.next_by_partition.keys() - owned:
            keys = [POSITION + layout.id + _PARTITION.pack(number) for number in left]
            positions = state.next_by_partition.items()
            state.next_by_partition = {n: at for n, at in positions if n in owned}
            self._store.commit({}, keys, {})

    def owned(self, layout: Layout) -> Collection[int] | None:
        return self._state(layout.id).owned

    def restoring(self, layout: Layout) -> frozenset[int]:
        return self._state(layout.id).restoring

    def content(self, layout: Layout) -> Content:
        """For any thread: the runs are at least as new as the positions, the floor as the runs."""
        state = self._state(layout.id)
        next_by_partition, held = state.next_by_partition, state.held
        return Content(next_by_partition, held, state.floor_us)

    def folder_of(self, layout: Layout, held: HeldRun) -> Path:
        """Where the files of a large run are, until it is merged."""
        return self._path(layout.id, held.number)

    def arrivals_folder(self) -> Path:
        """Where folders of runs may be made that are to be adopted; emptied at each start."""
        return self._folder / "arrivals"

    def adopt(
        self,
        layout: Layout,
        arrivals: Sequence[Arrival],
        next_by_partition: Mapping[int, int],
        floor_us: int,
    ) -> list[HeldRun]:
        """Take runs that hold, with what is here, all before these positions; durable together."""
        self._check_room()
        state, puts, held = self._state(layout.id), {}, []
        for number, arrival in enumerate(arrivals, state.next_number):
            one = self._moved_in(layout.id, number, arrival)
            puts[_key_of(layout.id, one)] = arrival.head if one.large else arrival.stored
            held.append(one)
        floor_us = max(floor_us, state.floor_us)
        puts |= _positions(layout, next_by_partition, floor_us)
        self._store.commit(puts, [], {})
        state.next_number += len(held)
        state.floor_us = floor_us
        state.held = (*held, *state.held)
        state.next_by_partition = {**state.next_by_partition, **next_by_partition}
        return held

    def _moved_in(self, layout: bytes, number: int, arrival: Arrival) -> HeldRun:
        if arrival.folder is None:
            return HeldRun(number, from_bytes(arrival.stored))
        path = self._path(layout, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        if arrival.folder.exists():  # else it was moved in before, by a try that found no room
            arrival.folder.rename(path)
        sync_folder(path.parent)
        return HeldRun(number, *map_folder(path, arrival.head))

    def expect(self, stream: str, end_by_partition: Mapping[int, int]) -> None:
        topic = topics.INGEST_RECORDS.of(stream)
        known = self.furthest_by_partition(stream)
        furthest = {
            Partition(topic, number): max(end, known.get(number, 0))
            for number, end in end_by_partition.items()
        }
        self._store.commit({}, [], furthest)
        self._note_furthest(furthest)

    def _give_up(self, merge: _Merge) -> None:
        """Its sources are gone, or it keeps too little."""
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

    def _remove(self, layout: bytes, runs: Collection[HeldRun]) -> None:
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


def _positions(
    layout: Layout, next_by_partition: Mapping[int, int], floor_us: int
) -> dict[bytes, bytes]:
    positions = {
        POSITION + layout.id + _PARTITION.pack(number): _INT64.pack(offset)
        for number, offset in next_by_partition.items()
    }
    return positions | {FLOOR + layout.id: _INT64.pack(floor_us)}


def _key_of(layout: bytes, held: HeldRun) -> bytes:
    return _key(LARGE if held.large else SMALL, layout, held.number)


def _key(kind: bytes, layout: bytes, number: int) -> bytes:
    return kind + layout + _NUMBER.pack(number)


def _int(value: bytes) -> int:
    return int(_INT64.unpack(value)[0])

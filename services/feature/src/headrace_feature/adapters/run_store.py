# SPDX-License-Identifier: Apache-2.0
"""Observations on the kit's state store: a batch's runs and positions are durable together.

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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from headrace import topics
from headrace.errors import Busy
from headrace_feature.adapters import run_keys as keys
from headrace_feature.adapters.run_files import from_bytes, sync_folder, to_bytes
from headrace_feature.adapters.run_tiers import HeldRun, into_one, too_many
from headrace_feature.adapters.stored_run import StoredRun
from headrace_feature.domain.gathering import Wanted
from headrace_feature.domain.observations import AnyRun, Run, merged, whole
from headrace_feature.domain.views import Layout
from headrace_feature.ports import Folded
from headrace_kit.disk import needing_room
from headrace_kit.failpoints import failpoint
from headrace_kit.kafka import Partition
from headrace_kit.state_store import StateStore

NO_FLOOR_US = -(2**62)
SMALL_ROWS_MAX = 1 << 20  # in memory, about 100 bytes each, before a merge of them is not put off


@dataclass(slots=True)
class _State:
    """One layout; readers see `held`, which is swapped whole."""

    held: tuple[HeldRun, ...] = ()
    next_number: int = 0
    floor_us: int = NO_FLOOR_US
    erased_to: int | None = None  # None: nothing was ever held
    next_by_partition: Mapping[int, int] = field(default_factory=dict)
    ahead_by_partition: Mapping[int, int] = field(default_factory=dict)
    owned: frozenset[int] | None = None  # None: nobody said which partitions are ours
    restoring: frozenset[int] = frozenset()
    topic_id: str = ""  # that the offsets are of; empty: nobody said yet

    def read_on(self, next_by_partition: Mapping[int, int]) -> None:
        """A mapping of positions is never changed: a reader may have it."""
        ahead, (moved, complete) = self.ahead_by_partition, self.parted(next_by_partition)
        self.next_by_partition = {**self.next_by_partition, **complete}
        self.ahead_by_partition = {**ahead, **moved}

    def parted(self, by_partition: Mapping[int, int]) -> tuple[dict[int, int], dict[int, int]]:
        """What is of partitions that are ahead, and what is of the others."""
        ahead = {n: at for n, at in by_partition.items() if n in self.ahead_by_partition}
        return ahead, {n: at for n, at in by_partition.items() if n not in ahead}


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """What a layout holds; the runs hold all before the positions, down to the floor, and of the
    log of erased events none before `erased_to`. The positions are of the topic with this id.
    """

    next_by_partition: Mapping[int, int]
    held: Sequence[HeldRun]
    floor_us: int
    erased_to: int
    topic_id: str


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
    head: bytes
    steps: Iterator[None]

    @property
    def frees(self) -> bool:
        return _frees(self.sources)


class RunStore:
    """ObservationStore; one thread writes, any thread reads.

    `folder_bytes_max` bounds the large runs; the state store has a bound of its own.
    """

    def __init__(self, store: StateStore, folder: Path, *, folder_bytes_max: int) -> None:
        self._store, self._folder, self._bytes_max = store, folder, folder_bytes_max
        self._states: dict[bytes, _State] = {}
        self._furthest: dict[str, dict[int, int]] = {}
        self._erased_known = 0
        self._merges: list[_Merge] = []  # one that frees memory, one of large runs alone
        self._open()

    def _open(self) -> None:
        for key, value in self._all(keys.POSITION):
            state = self._state(keys.layout_of(key))
            number = keys.partition_of(key)
            state.next_by_partition = {**state.next_by_partition, number: keys.int_of(value)}
        for key, value in self._all(keys.AHEAD):
            state = self._state(keys.layout_of(key))
            number = keys.partition_of(key)
            state.ahead_by_partition = {**state.ahead_by_partition, number: keys.int_of(value)}
        for key, value in self._all(keys.FLOOR):
            self._state(key[1:]).floor_us = keys.int_of(value)
            self._state(key[1:]).erased_to = 0  # of an older version, unless there is an entry
        for key, value in self._all(keys.ERASED):
            self._state(key[1:]).erased_to = keys.int_of(value)
        for key, value in self._all(keys.TOPIC):
            self._state(keys.layout_of(key)).topic_id = value.decode()
        for kind in (keys.LARGE, keys.SMALL):
            for key, value in self._all(kind):
                self._take(key, value)
        self._note_furthest(self._store.offsets())
        self._remove_unknown_folders()

    def _take(self, key: bytes, value: bytes) -> None:
        layout, number = keys.layout_of(key), keys.number_of(key)
        large = key.startswith(keys.LARGE)
        run = StoredRun(self._path(layout, number), value) if large else from_bytes(value)
        state = self._state(layout)
        state.held = (*state.held, HeldRun(number, run))
        state.next_number = max(state.next_number, number + 1)

    def runs(self, layout: Layout) -> Sequence[AnyRun]:
        state = self._states.get(layout.id)
        return [each.run for each in state.held] if state is not None else []

    def runs_of(self, layout: Layout, wanted: Wanted) -> Sequence[AnyRun]:
        return self.runs(layout)

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
            if state.erased_to is None:
                state.erased_to = self._erased_known
            ahead, complete = state.parted(folded.next_by_partition)
            puts |= keys.positions(layout, complete, folded.floor_us, state.erased_to)
            puts |= keys.offsets(keys.AHEAD, layout, ahead)
            puts |= _stored(layout, [each for each in held if each not in kept])
            gone += [keys.key_of(layout, each) for each in state.held if each not in held]
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
        held = [each for state in self._states.values() for each in state.held]
        if sum(each.folder_bytes for each in held) >= self._bytes_max:
            raise Busy("STATE_FULL", path=self._folder.name, bytes_max=self._bytes_max)

    def _tidied(
        self,
        held: tuple[HeldRun, ...],
        number: int,
        floor_us: int,
        owned: frozenset[int] | None,
    ) -> tuple[tuple[HeldRun, ...], int]:
        """The same with small runs merged where a tier has too many; and the next number."""
        while crowded := self._too_many(held, large=False):
            sources = crowded[0]
            run = merged([whole(e.run) for e in sources], floor_us=floor_us, partitions=owned)
            one = HeldRun(number, run)
            held = (*(each for each in held if each not in sources), one)
            number += 1
        return held, number

    def _too_many(self, held: Sequence[HeldRun], *, large: bool) -> list[tuple[HeldRun, ...]]:
        busy = [each for merge in self._merges for each in merge.sources]
        return too_many([each for each in held if each not in busy], large=large)

    def _install(self, folded: Folded, held: tuple[HeldRun, ...], number: int) -> None:
        state = self._state(folded.layout.id)
        gone = [each for each in state.held if each not in held]
        state.held, state.next_number = held, number
        state.read_on(folded.next_by_partition)
        self._give_up([each for each in self._merges if set(each.sources) & set(gone)])
        self._remove(folded.layout.id, [each for each in gone if each.large])

    def tend(self, *, begin: bool = True) -> None:
        """A step of each merge, so that neither the long nor the short wait for the others.

        `begin`: whether those that are over are followed by others.
        """
        for frees in (True, False):
            merge = self._going_on(frees=frees)
            if merge is None and begin:
                merge = self._begun(frees=frees)
            if merge is not None:
                self._merge_on(merge)
        self.free_memory()

    def free_memory(self) -> None:
        """Merge small runs at once, as long as too much is held in memory."""
        while self._small_rows() > SMALL_ROWS_MAX:
            merge = self._going_on(frees=True) or self._begun(frees=True)
            if merge is None:
                return
            self._merge_on(merge)

    def _small_rows(self) -> int:
        held = [each for state in self._states.values() for each in state.held]
        return sum(len(each.run) for each in held if not each.large)

    def _going_on(self, *, frees: bool) -> _Merge | None:
        return next((each for each in self._merges if each.frees == frees), None)

    def _merge_on(self, merge: _Merge) -> None:
        """A step. Raises Busy DISK_FULL, and then the merge is begun anew."""
        try:
            with needing_room(self._folder):
                ended = next(merge.steps, self) is self
        except Busy:
            self._give_up([merge])
            raise
        if ended:
            self._end_merge(merge)

    def _begun(self, *, frees: bool) -> _Merge | None:
        """Of the fullest tier of any layout: who waits gets fuller, and has its turn."""
        waiting = [
            (layout, sources)
            for layout, state in self._states.items()
            for sources in self._too_many(state.held, large=True)
            if _frees(sources) == frees
        ]
        if not waiting:
            return None
        layout, sources = max(waiting, key=lambda each: len(each[1]))
        merge = self._into_one(layout, sources, None)
        self._merges.append(merge)
        return merge

    def _into_one(
        self, layout: bytes, sources: tuple[HeldRun, ...], kept: Callable[[Run], Run] | None
    ) -> _Merge:
        """Of each piece what is kept."""
        state = self._state(layout)
        number, state.next_number = state.next_number, state.next_number + 1
        head, steps = into_one(
            [each.run for each in sources],
            self._path(layout, number),
            floor_us=state.floor_us,
            partitions=state.owned,
            kept=kept,
        )
        return _Merge(layout, number, sources, state.owned, head, steps)

    @property
    def merging(self) -> bool:
        """Whether runs are on their way into one: `tend` brings it on."""
        return bool(self._merges)

    def rewrite(self, layout: Layout, held: HeldRun, kept: Callable[[Run], Run]) -> None:
        """Make a large run anew of what is kept of each piece; only while nothing is merged."""
        self._merges = [self._into_one(layout.id, (held,), kept)]

    def replace_small(
        self, layout: Layout, run_by_number: Mapping[int, Run], erased_to: int | None
    ) -> None:
        """Other runs in place of small ones, durable with how far erased events are out.

        The positions become another mapping of the same, for what is held is not what it was.
        """
        state = self._state(layout.id)
        fresh = [run for run in run_by_number.values() if len(run)]
        held = (
            *(each for each in state.held if each.number not in run_by_number),
            *(HeldRun(number, run) for number, run in enumerate(fresh, state.next_number)),
        )
        gone = [keys.key_of(layout.id, each) for each in state.held if each not in held]
        puts = _stored(layout.id, [each for each in held if each not in state.held])
        if erased_to is not None:
            puts[keys.ERASED + layout.id] = keys.int64(erased_to)
        self._store.commit(puts, gone, {})
        state.next_number += len(fresh)
        state.held, state.next_by_partition = held, dict(state.next_by_partition)
        if erased_to is not None:
            state.erased_to = erased_to

    def erased_to(self, layout: Layout) -> int | None:
        """None while nothing was ever held. Any thread may ask."""
        state = self._states.get(layout.id)
        return state.erased_to if state is not None else None

    def know_erased(self, erased_known: int) -> None:
        """The fold leaves out what was told before this place: a new layout begins there."""
        self._erased_known = erased_known

    def _end_merge(self, merge: _Merge) -> None:
        state = self._states[merge.layout]
        run = StoredRun(self._path(merge.layout, merge.number), merge.head)
        one = HeldRun(merge.number, run)
        failpoint("feature.state.merged")
        self._store.commit(
            {keys.key_of(merge.layout, one): merge.head},
            [keys.key_of(merge.layout, each) for each in merge.sources],
            {},
        )
        state.held = (one, *(each for each in state.held if each not in merge.sources))
        self._merges.remove(merge)
        self._remove(merge.layout, [each for each in merge.sources if each.large])

    def own(
        self, layout: Layout, partitions: Collection[int], *, restoring: Collection[int] = ()
    ) -> None:
        state, owned = self._state(layout.id), frozenset(partitions)
        grown = state.owned is not None and not owned <= state.owned
        # What is ahead is restoring by itself, and no longer once it is filled.
        state.restoring = frozenset(restoring) - state.ahead_by_partition.keys()
        state.owned = owned
        if grown:  # they would leave out what is ours again
            self._give_up([each for each in self._merges if each.layout == layout.id])
        positions, ahead = state.next_by_partition, state.ahead_by_partition
        if left := dict.fromkeys((positions.keys() | ahead.keys()) - owned, 0):
            gone = [k for kind in keys.PLACES for k in keys.offsets(kind, layout.id, left)]
            state.next_by_partition = {n: at for n, at in positions.items() if n in owned}
            state.ahead_by_partition = {n: at for n, at in ahead.items() if n in owned}
            self._store.commit({}, gone, {})

    def owned(self, layout: Layout) -> Collection[int] | None:
        return self._state(layout.id).owned

    def restoring(self, layout: Layout) -> frozenset[int]:
        state = self._state(layout.id)
        return state.restoring.union(state.ahead_by_partition)

    def content(self, layout: Layout) -> Content:
        """For any thread: the runs are at least as new as the positions, the floor as the runs."""
        state = self._state(layout.id)
        erased_to = state.erased_to or 0
        next_by_partition, held = state.next_by_partition, state.held
        return Content(next_by_partition, held, state.floor_us, erased_to, state.topic_id)

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
        erased_to: int,
    ) -> list[HeldRun]:
        """Take runs that hold, with what is here, all before these positions; durable together.

        `erased_to`: as `Content` has it, of the arrivals.
        """
        self._check_room()
        state, puts, held = self._state(layout.id), {}, []
        for number, arrival in enumerate(arrivals, state.next_number):
            one = self._moved_in(layout.id, number, arrival)
            puts[keys.key_of(layout.id, one)] = arrival.head if one.large else arrival.stored
            held.append(one)
        floor_us = max(floor_us, state.floor_us)
        if state.erased_to is not None:
            erased_to = min(erased_to, state.erased_to)
        puts |= keys.positions(layout.id, next_by_partition, floor_us, erased_to)
        gone = list(keys.offsets(keys.AHEAD, layout.id, next_by_partition))
        self._store.commit(puts, gone, {})
        state.next_number += len(held)
        state.floor_us, state.erased_to = floor_us, erased_to
        state.held = (*held, *state.held)
        state.next_by_partition = {**state.next_by_partition, **next_by_partition}
        ahead = state.ahead_by_partition.items()
        state.ahead_by_partition = {n: at for n, at in ahead if n not in next_by_partition}
        return held

    def lead(self, layout: Layout, next_by_partition: Mapping[int, int]) -> None:
        """Read these partitions on from here; what was before is adopted when it is there."""
        state = self._state(layout.id)
        self._store.commit(keys.offsets(keys.AHEAD, layout.id, next_by_partition), [], {})
        state.ahead_by_partition = {**state.ahead_by_partition, **next_by_partition}

    def leading(self) -> set[bytes]:
        """The ids of layouts that have partitions ahead."""
        return {layout for layout, state in self._states.items() if state.ahead_by_partition}

    def ahead_by_partition(self, layout: Layout) -> Mapping[int, int]:
        return self._state(layout.id).ahead_by_partition

    def _moved_in(self, layout: bytes, number: int, arrival: Arrival) -> HeldRun:
        if arrival.folder is None:
            return HeldRun(number, from_bytes(arrival.stored))
        path = self._path(layout, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        if arrival.folder.exists():  # else it was moved in before, by a try that found no room
            arrival.folder.rename(path)
        sync_folder(path.parent)
        return HeldRun(number, StoredRun(path, arrival.head))

    def expect(self, stream: str, end_by_partition: Mapping[int, int]) -> None:
        topic = topics.INGEST_RECORDS.of(stream)
        known = self.furthest_by_partition(stream)
        furthest = {
            Partition(topic, number): max(end, known.get(number, 0))
            for number, end in end_by_partition.items()
        }
        self._store.commit({}, [], furthest)
        self._note_furthest(furthest)

    def _give_up(self, merges: Sequence[_Merge]) -> None:
        """Their sources are gone, or they keep too little."""
        self._merges = [each for each in self._merges if each not in merges]
        for merge in merges:
            shutil.rmtree(self._path(merge.layout, merge.number), ignore_errors=True)

    def reading(self) -> AbstractContextManager[None]:
        return nullcontext()

    def next_by_partition(self, layout: Layout) -> Mapping[int, int]:
        return self._state(layout.id).next_by_partition

    def furthest_by_partition(self, stream: str) -> Mapping[int, int]:
        return self._furthest.get(stream, {})

    def floor_us(self, layout: Layout) -> int:
        return self._state(layout.id).floor_us

    def retire(self, layouts: Collection[Layout]) -> None:
        gone = self._states.keys() - {layout.id for layout in layouts}
        self._give_up([each for each in self._merges if each.layout in gone])
        deletes = [key for layout in gone for key in self._keys(layout)]
        if deletes:
            self._store.commit({}, deletes, {})
        for layout in gone:
            self._remove(layout, [each for each in self._states.pop(layout).held if each.large])

    def _keys(self, layout: bytes) -> list[bytes]:
        return [key for kind in keys.KINDS for key, _ in self._all(kind + layout)]

    def topic_id(self, layout: Layout) -> str:
        return self._state(layout.id).topic_id

    def follow(self, layout: Layout, topic_id: str) -> bool:
        state = self._state(layout.id)
        if state.topic_id == topic_id:
            return False
        name = {keys.TOPIC + layout.id: topic_id.encode()}
        if not state.topic_id:  # nothing is held, or by an older version
            self._store.commit(name, [], {})
            state.topic_id = topic_id
            return False
        self._give_up([each for each in self._merges if each.layout == layout.id])
        topic = topics.INGEST_RECORDS.of(layout.stream)
        begun = {Partition(topic, n): 0 for n in self.furthest_by_partition(layout.stream)}
        self._store.commit(name, self._keys(layout.id), begun)
        # A run's number is never another's: who copies it knows it by that.
        self._states[layout.id] = _State(
            next_number=state.next_number,
            owned=state.owned,
            restoring=state.owned or frozenset(),
            topic_id=topic_id,
        )
        self._note_furthest(begun)
        self._remove(layout.id, [each for each in state.held if each.large])
        return True

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


def _stored(layout: bytes, held: Sequence[HeldRun]) -> dict[bytes, bytes]:
    """The small ones of these as keys and values."""
    return {
        keys.key_of(layout, each): to_bytes(each.run) for each in held if isinstance(each.run, Run)
    }


def _frees(sources: Sequence[HeldRun]) -> bool:
    """Whether some of them are in memory."""
    return not all(each.large for each in sources)

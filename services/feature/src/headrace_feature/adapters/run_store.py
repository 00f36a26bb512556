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

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from headrace import topics
from headrace.errors import Busy
from headrace_feature.adapters import run_keys as keys
from headrace_feature.adapters.layout_states import Content, LayoutState, keys_of, read_states
from headrace_feature.adapters.run_files import to_bytes
from headrace_feature.adapters.run_folders import Arrival, RunFolders
from headrace_feature.adapters.run_merges import RunMerges
from headrace_feature.adapters.run_tiers import HeldRun
from headrace_feature.domain.gathering import Wanted
from headrace_feature.domain.log_place import BEGINNING, LogPlace, earliest
from headrace_feature.domain.observations import AnyRun, Run
from headrace_feature.domain.views import Layout
from headrace_feature.ports import Folded, ObservationReader
from headrace_kit.kafka import Partition
from headrace_kit.state_store import StateStore


class RunStore:
    """ObservationStore; one thread writes, any thread reads.

    `folder_bytes_max` bounds the large runs; the state store has a bound of its own.
    """

    def __init__(self, store: StateStore, folder: Path, *, folder_bytes_max: int) -> None:
        self._store, self._folders = store, RunFolders(folder)
        self._bytes_max = folder_bytes_max
        self._states = read_states(store, self._folders)
        self._merges = RunMerges(store, self._folders, self._states)
        self._furthest: dict[str, dict[int, int]] = {}
        self._erased_known = BEGINNING
        self._note_furthest(store.offsets())
        self._folders.remove_others(
            {
                self._folders.of(layout, each.number)
                for layout, state in self._states.items()
                for each in state.held
                if each.large
            }
        )

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
            held, number = self._merges.tidied(
                added, fresh.number + 1, folded.floor_us, state.owned
            )
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
            raise Busy("STATE_FULL", path=self._folders.root.name, bytes_max=self._bytes_max)

    def _install(self, folded: Folded, held: tuple[HeldRun, ...], number: int) -> None:
        state = self._state(folded.layout.id)
        gone = [each for each in state.held if each not in held]
        state.held, state.next_number = held, number
        state.read_on(folded.next_by_partition)
        self._merges.give_up_without(gone)
        self._folders.remove(folded.layout.id, gone)

    @property
    def merging(self) -> bool:
        """Whether runs are on their way into one: `tend` brings it on."""
        return self._merges.going_on

    def tend(self, *, begin: bool = True) -> None:
        """A step of what is merged beside the work; `begin`: whether more of it is begun."""
        self._merges.tend(begin=begin)

    def free_memory(self) -> None:
        """Merge small runs at once, as long as too much is held in memory."""
        self._merges.free_memory()

    def rewrite(self, layout: Layout, held: HeldRun, kept: Callable[[Run], Run]) -> None:
        """Make a large run anew of what is kept of each piece; only while nothing is merged."""
        self._merges.rewrite(layout.id, held, kept)

    def replace_small(
        self, layout: Layout, run_by_number: Mapping[int, Run], erased_to: LogPlace | None
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
            puts |= keys.erased_place(layout.id, erased_to)
        self._store.commit(puts, gone, {})
        state.next_number += len(fresh)
        state.held, state.next_by_partition = held, dict(state.next_by_partition)
        if erased_to is not None:
            state.erased_to = erased_to

    def erased_to(self, layout: Layout) -> LogPlace | None:
        """None while nothing was ever held. Any thread may ask."""
        state = self._states.get(layout.id)
        return state.erased_to if state is not None else None

    def know_erased(self, known: LogPlace) -> None:
        """The fold leaves out what was told before this place: a new layout begins there."""
        self._erased_known = known

    def follow_erased_anew(self, end: LogPlace) -> None:
        """A place in another log than this one, or behind its end, is of one that was deleted: this
        one is all to be read.

        For any thread. Again and again: a snapshot may have such a place.
        """
        for state in list(self._states.values()):
            place = state.erased_to
            if place is not None and _of_another(place, end):
                state.erased_to = LogPlace(0, end.log_id)

    def own(
        self, layout: Layout, partitions: Collection[int], *, restoring: Collection[int] = ()
    ) -> None:
        state, owned = self._state(layout.id), frozenset(partitions)
        self._name_log(layout, state)
        grown = state.owned is not None and not owned <= state.owned
        # What is ahead is restoring by itself, and no longer once it is filled.
        state.restoring = frozenset(restoring) - state.ahead_by_partition.keys()
        state.owned = owned
        if grown:  # they would leave out what is ours again
            self._merges.give_up_of([layout.id])
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
        """For any thread."""
        return self._state(layout.id).content()

    def folder_of(self, layout: Layout, held: HeldRun) -> Path:
        """Where the files of a large run are, until it is merged."""
        return self._folders.of(layout.id, held.number)

    def arrivals_folder(self) -> Path:
        """Where folders of runs may be made that are to be adopted; emptied at each start."""
        return self._folders.arrivals

    def adopt(
        self,
        layout: Layout,
        arrivals: Sequence[Arrival],
        next_by_partition: Mapping[int, int],
        floor_us: int,
        erased_to: LogPlace,
    ) -> list[HeldRun]:
        """Take runs that hold, with what is here, all before these positions; durable together.

        `erased_to`: as `Content` has it, of the arrivals.
        """
        self._check_room()
        state, puts, held = self._state(layout.id), {}, []
        for number, arrival in enumerate(arrivals, state.next_number):
            one = self._folders.moved_in(layout.id, number, arrival)
            puts[keys.key_of(layout.id, one)] = arrival.head if one.large else arrival.stored
            held.append(one)
        floor_us = max(floor_us, state.floor_us)
        ours = state.erased_to or LogPlace(erased_to.offset, self._erased_known.log_id)
        erased_to = earliest([erased_to, ours])
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

    def expect(self, stream: str, end_by_partition: Mapping[int, int]) -> None:
        topic = topics.INGEST_RECORDS.of(stream)
        known = self.furthest_by_partition(stream)
        furthest = {
            Partition(topic, number): max(end, known.get(number, 0))
            for number, end in end_by_partition.items()
        }
        self._store.commit({}, [], furthest)
        self._note_furthest(furthest)

    def reading(self) -> AbstractContextManager[ObservationReader]:
        return nullcontext(self)

    def elsewhere(self, layout: Layout) -> Mapping[int, LogPlace]:
        return {}

    def next_by_partition(self, layout: Layout) -> Mapping[int, int]:
        return self._state(layout.id).next_by_partition

    def furthest_by_partition(self, stream: str) -> Mapping[int, int]:
        return self._furthest.get(stream, {})

    def floor_us(self, layout: Layout) -> int:
        return self._state(layout.id).floor_us

    def retire(self, layouts: Collection[Layout]) -> None:
        gone = self._states.keys() - {layout.id for layout in layouts}
        self._merges.give_up_of(gone)
        deletes = [key for layout in gone for key in keys_of(self._store, layout)]
        if deletes:
            self._store.commit({}, deletes, {})
        for layout in gone:
            self._folders.remove(layout, self._states.pop(layout).held)

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
        self._merges.give_up_of([layout.id])
        topic = topics.INGEST_RECORDS.of(layout.stream)
        begun = {Partition(topic, n): 0 for n in self.furthest_by_partition(layout.stream)}
        self._store.commit(name, keys_of(self._store, layout.id), begun)
        # A run's number is never another's: who copies it knows it by that.
        self._states[layout.id] = LayoutState(
            next_number=state.next_number,
            owned=state.owned,
            restoring=state.owned or frozenset(),
            topic_id=topic_id,
        )
        self._note_furthest(begun)
        self._folders.remove(layout.id, state.held)
        return True

    def _state(self, layout: bytes) -> LayoutState:
        return self._states.setdefault(layout, LayoutState())

    def _name_log(self, layout: Layout, state: LayoutState) -> None:
        """A place that names none, of a version before, is in the one that is there."""
        place, log_id = state.erased_to, self._erased_known.log_id
        if place is None or place.log_id or not log_id:
            return
        named = LogPlace(place.offset, log_id)
        self._store.commit(keys.erased_place(layout.id, named), [], {})
        state.erased_to = named

    def _note_furthest(self, offsets: Mapping[Partition, int]) -> None:
        for partition, offset in offsets.items():
            stream = topics.INGEST_RECORDS.part_of(partition.topic)
            self._furthest[stream] = {**self._furthest.get(stream, {}), partition.number: offset}


def _of_another(place: LogPlace, end: LogPlace) -> bool:
    return place.log_id not in ("", end.log_id) or place.offset > end.offset


def _stored(layout: bytes, held: Sequence[HeldRun]) -> dict[bytes, bytes]:
    """The small ones of these as keys and values."""
    return {
        keys.key_of(layout, each): to_bytes(each.run) for each in held if isinstance(each.run, Run)
    }

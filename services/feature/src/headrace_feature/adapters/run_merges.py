# SPDX-License-Identifier: Apache-2.0
"""Runs become one where there are too many: small ones at once, large ones a piece at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from headrace.errors import Busy
from headrace_feature.adapters import run_keys as keys
from headrace_feature.adapters.layout_states import LayoutState
from headrace_feature.adapters.run_folders import RunFolders
from headrace_feature.adapters.run_tiers import HeldRun, into_one, too_many
from headrace_feature.domain.observations import Run, merged, whole
from headrace_kit.disk import needing_room
from headrace_kit.failpoints import failpoint
from headrace_kit.state_store import StateStore

SMALL_ROWS_MAX = 1 << 20  # in memory, about 100 bytes each, before a merge of them is not put off


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


class RunMerges:
    """Of the layouts in `states`, which it changes as each merge ends; the thread that writes."""

    def __init__(
        self, store: StateStore, folders: RunFolders, states: Mapping[bytes, LayoutState]
    ) -> None:
        self._store, self._folders, self._states = store, folders, states
        self._merges: list[_Merge] = []  # one that frees memory, one of large runs alone

    @property
    def going_on(self) -> bool:
        return bool(self._merges)

    def tidied(
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

    def tend(self, *, begin: bool) -> None:
        """A step of each merge, so that neither the long nor the short wait for the others.

        `begin`: whether those that are over are followed by others.
        """
        for frees in (True, False):
            merge = self._of(frees=frees)
            if merge is None and begin:
                merge = self._begun(frees=frees)
            if merge is not None:
                self._merge_on(merge)
        self.free_memory()

    def free_memory(self) -> None:
        """Merge small runs at once, as long as too much is held in memory."""
        while self._small_rows() > SMALL_ROWS_MAX:
            merge = self._of(frees=True) or self._begun(frees=True)
            if merge is None:
                return
            self._merge_on(merge)

    def rewrite(self, layout: bytes, held: HeldRun, kept: Callable[[Run], Run]) -> None:
        """Make a large run anew of what is kept of each piece; only while nothing is merged."""
        self._merges = [self._into_one(layout, (held,), kept)]

    def give_up_of(self, layouts: Collection[bytes]) -> None:
        """They are gone, or the merges would keep too little of them."""
        self._give_up([each for each in self._merges if each.layout in layouts])

    def give_up_without(self, gone: Collection[HeldRun]) -> None:
        """Those whose sources are gone."""
        self._give_up([each for each in self._merges if set(each.sources) & set(gone)])

    def _give_up(self, merges: Sequence[_Merge]) -> None:
        self._merges = [each for each in self._merges if each not in merges]
        for merge in merges:
            self._folders.discard(merge.layout, merge.number)

    def _too_many(self, held: Sequence[HeldRun], *, large: bool) -> list[tuple[HeldRun, ...]]:
        busy = [each for merge in self._merges for each in merge.sources]
        return too_many([each for each in held if each not in busy], large=large)

    def _small_rows(self) -> int:
        held = [each for state in self._states.values() for each in state.held]
        return sum(len(each.run) for each in held if not each.large)

    def _of(self, *, frees: bool) -> _Merge | None:
        return next((each for each in self._merges if each.frees == frees), None)

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
        state = self._states[layout]
        number, state.next_number = state.next_number, state.next_number + 1
        head, steps = into_one(
            [each.run for each in sources],
            self._folders.of(layout, number),
            floor_us=state.floor_us,
            partitions=state.owned,
            kept=kept,
        )
        return _Merge(layout, number, sources, state.owned, head, steps)

    def _merge_on(self, merge: _Merge) -> None:
        """A step. Raises Busy DISK_FULL, and then the merge is begun anew."""
        try:
            with needing_room(self._folders.root):
                ended = next(merge.steps, self) is self
        except Busy:
            self._give_up([merge])
            raise
        if ended:
            self._end(merge)

    def _end(self, merge: _Merge) -> None:
        state = self._states[merge.layout]
        one = self._folders.opened(merge.layout, merge.number, merge.head)
        failpoint("feature.state.merged")
        self._store.commit(
            {keys.key_of(merge.layout, one): merge.head},
            [keys.key_of(merge.layout, each) for each in merge.sources],
            {},
        )
        state.held = (one, *(each for each in state.held if each not in merge.sources))
        self._merges.remove(merge)
        self._folders.remove(merge.layout, merge.sources)


def _frees(sources: Sequence[HeldRun]) -> bool:
    """Whether some of them are in memory."""
    return not all(each.large for each in sources)

# SPDX-License-Identifier: Apache-2.0
"""What the runs' store knows of each layout: its runs, and how far it has come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from headrace_feature.adapters import run_keys as keys
from headrace_feature.adapters.run_files import from_bytes
from headrace_feature.adapters.run_folders import RunFolders
from headrace_feature.adapters.run_tiers import HeldRun
from headrace_feature.domain.log_place import BEGINNING, LogPlace
from headrace_kit.state_store import StateStore

NO_FLOOR_US = -(2**62)


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """What a layout holds; the runs hold all before the positions, down to the floor, and of the
    log of erased events none before `erased_to`. The positions are of the topic with this id.
    """

    next_by_partition: Mapping[int, int]
    held: Sequence[HeldRun]
    floor_us: int
    erased_to: LogPlace
    topic_id: str


@dataclass(slots=True)
class LayoutState:
    """One layout; readers see `held`, which is swapped whole."""

    held: tuple[HeldRun, ...] = ()
    next_number: int = 0
    floor_us: int = NO_FLOOR_US
    erased_to: LogPlace | None = None  # None: nothing was ever held
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

    def content(self) -> Content:
        """For any thread: the runs are at least as new as the positions, the floor as the runs."""
        erased_to = self.erased_to or BEGINNING
        next_by_partition, held = self.next_by_partition, self.held
        return Content(next_by_partition, held, self.floor_us, erased_to, self.topic_id)


def read_states(store: StateStore, folders: RunFolders) -> dict[bytes, LayoutState]:
    """By layout, as they are durable."""
    found: dict[bytes, LayoutState] = {}

    def state(layout: bytes) -> LayoutState:
        return found.setdefault(layout, LayoutState())

    for key, value in _all(store, keys.POSITION):
        of = state(keys.layout_of(key))
        number = keys.partition_of(key)
        of.next_by_partition = {**of.next_by_partition, number: keys.int_of(value)}
    for key, value in _all(store, keys.AHEAD):
        of = state(keys.layout_of(key))
        number = keys.partition_of(key)
        of.ahead_by_partition = {**of.ahead_by_partition, number: keys.int_of(value)}
    for key, value in _all(store, keys.FLOOR):
        state(key[1:]).floor_us = keys.int_of(value)
        state(key[1:]).erased_to = BEGINNING  # of an older version, unless there is an entry
    for key, value in _all(store, keys.ERASED):
        state(key[1:]).erased_to = LogPlace(keys.int_of(value))
    for key, value in _all(store, keys.ERASED_LOG):
        of = state(key[1:])
        of.erased_to = replace(of.erased_to or BEGINNING, log_id=value.decode())
    for key, value in _all(store, keys.TOPIC):
        state(keys.layout_of(key)).topic_id = value.decode()
    for key, value in chain(_all(store, keys.LARGE), _all(store, keys.SMALL)):
        layout, number = keys.layout_of(key), keys.number_of(key)
        large = key.startswith(keys.LARGE)
        of, opened = state(layout), folders.opened
        run = opened(layout, number, value) if large else HeldRun(number, from_bytes(value))
        of.held = (*of.held, run)
        of.next_number = max(of.next_number, number + 1)
    return found


def keys_of(store: StateStore, layout: bytes) -> list[bytes]:
    """Of all that the store holds of a layout."""
    return [key for kind in keys.KINDS for key, _ in _all(store, kind + layout)]


def _all(store: StateStore, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    yield from store.scan(prefix, prefix + b"\xff" * 32)

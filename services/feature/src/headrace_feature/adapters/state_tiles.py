# SPDX-License-Identifier: Apache-2.0
"""Tiles on the kit's state store: tiles and positions of one batch are durable together.

    t | tile key                      a tile
    p | layout id | partition         next offset that the layout reads there
    f | layout id                     event time before which its tiles may be gone
    r | layout id                     retired, its tiles are being deleted

The store's own offsets are the furthest that any layout of the stream came.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice

from headrace import topics
from headrace_feature.domain.tiles import first_key
from headrace_feature.domain.views import DAY_US, Layout
from headrace_feature.ports import Folded
from headrace_kit.kafka import Partition
from headrace_kit.state_store import StateStore

TILE, POSITION, FLOOR, RETIRED = b"t", b"p", b"f", b"r"
NO_FLOOR_US = -(2**62)
TILES_DELETED_MAX = 50_000  # in one batch
_INT64, _PARTITION = struct.Struct("<q"), struct.Struct(">I")


class StateTiles:
    """TileStore; one thread writes, any thread reads."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._next: dict[bytes, dict[int, int]] = {}
        for key, value in self._marks(POSITION):
            number = _PARTITION.unpack(key[-_PARTITION.size :])[0]
            self._next.setdefault(key[: -_PARTITION.size], {})[number] = _INT64.unpack(value)[0]
        self._floor_us: dict[bytes, int] = {
            key: _INT64.unpack(value)[0] for key, value in self._marks(FLOOR)
        }
        self._retired = {key for key, _ in self._marks(RETIRED)}
        self._furthest: dict[str, dict[int, int]] = {}
        self._note_furthest(store.offsets())

    def load(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        return self._store.get_many([TILE + key for key in keys])

    def scan(self, ranges: Sequence[tuple[bytes, bytes]]) -> list[list[bytes]]:
        return self._store.scan_many([(TILE + first, TILE + last) for first, last in ranges])

    def commit(self, batch: Sequence[Folded]) -> None:
        puts: dict[bytes, bytes] = {}
        furthest: dict[Partition, int] = {}
        for folded in batch:
            puts |= {TILE + key: value for key, value in folded.tiles.items()}
            puts |= self._positions(folded)
            for number, offset in folded.next_by_partition.items():
                before = self.furthest_by_partition(folded.layout.stream).get(number, 0)
                partition = Partition(topics.INGEST_RECORDS.of(folded.layout.stream), number)
                furthest[partition] = max(before, offset)
        outlived = [key for folded in batch for key in self._outlived(folded)]
        self._floor_us.update((folded.layout.id, folded.floor_us) for folded in batch)
        self._store.commit(puts, outlived, furthest)
        self._note(batch)
        self._note_furthest(furthest)

    def _positions(self, folded: Folded) -> dict[bytes, bytes]:
        layout = folded.layout.id
        positions = {
            POSITION + layout + _PARTITION.pack(number): _INT64.pack(offset)
            for number, offset in folded.next_by_partition.items()
        }
        return positions | {FLOOR + layout: _INT64.pack(folded.floor_us)}

    def _outlived(self, folded: Folded) -> Iterator[bytes]:
        first = TILE + folded.layout.id
        last = TILE + first_key(folded.layout, folded.floor_us // DAY_US)
        found = self._store.scan(first, last)
        return (key for key, _ in islice(found, TILES_DELETED_MAX))

    def _note(self, batch: Sequence[Folded]) -> None:
        """What readers ask for is swapped whole: they hold no lock."""
        for folded in batch:
            layout = folded.layout.id
            self._next[layout] = {**self._next.get(layout, {}), **folded.next_by_partition}

    def _note_furthest(self, offsets: Mapping[Partition, int]) -> None:
        for partition, offset in offsets.items():
            stream = topics.INGEST_RECORDS.part_of(partition.topic)
            self._furthest[stream] = {**self._furthest.get(stream, {}), partition.number: offset}

    def next_by_partition(self, layout: Layout) -> Mapping[int, int]:
        return self._next.get(layout.id, {})

    def furthest_by_partition(self, stream: str) -> Mapping[int, int]:
        return self._furthest.get(stream, {})

    def floor_us(self, layout: Layout) -> int:
        return self._floor_us.get(layout.id, NO_FLOOR_US)

    def retire(self, layouts: Collection[Layout]) -> None:
        wanted = {layout.id for layout in layouts}
        gone, back = {*self._next} - wanted, self._retired & wanted
        marks = [
            POSITION + layout + _PARTITION.pack(number)
            for layout in gone
            for number in self._next[layout]
        ]
        marks += [FLOOR + layout for layout in gone] + [RETIRED + layout for layout in back]
        if gone or back:
            self._store.commit({RETIRED + layout: b"" for layout in gone}, marks, {})
        for layout in gone:
            del self._next[layout]
            self._floor_us.pop(layout, None)
        self._retired = (self._retired | gone) - back

    def sweep(self) -> None:
        if not self._retired:
            return
        layout = min(self._retired)
        found = self._store.scan(TILE + layout, TILE + _after(layout))
        gone = [key for key, _ in islice(found, TILES_DELETED_MAX)]
        self._store.commit({}, gone or [RETIRED + layout], {})
        if not gone:
            self._retired.discard(layout)

    def _marks(self, kind: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key, value in self._store.scan(kind, _after(kind)):
            yield key[len(kind) :], value


def _after(prefix: bytes) -> bytes:
    """Above every key with the prefix that is in use: no key goes on with so many high bytes."""
    return prefix + b"\xff" * 32

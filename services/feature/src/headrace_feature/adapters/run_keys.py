# SPDX-License-Identifier: Apache-2.0
"""What stands where in the state store.

o | layout id | number            a small run
l | layout id | number            a large run: its arrays are in the folder of that name
p | layout id | partition         next offset that the layout reads there
a | layout id | partition         the same where what was before is still filled in
f | layout id                     event time before which its observations may be gone
e | layout id                     place in the log of erased events before which none is held
t | layout id                     id of the topic that the offsets are of
i | layout id                     id of the log of erased events that its place is in
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from headrace_feature.adapters.run_tiers import HeldRun
from headrace_feature.domain.log_place import LogPlace

SMALL, LARGE, POSITION, AHEAD, FLOOR, ERASED, TOPIC = b"o", b"l", b"p", b"a", b"f", b"e", b"t"
ERASED_LOG = b"i"
KINDS = (SMALL, LARGE, POSITION, AHEAD, FLOOR, ERASED, ERASED_LOG, TOPIC)
PLACES = (POSITION, AHEAD)
LAYOUT_BYTES = 8
_INT64, _PARTITION, _NUMBER = struct.Struct("<q"), struct.Struct(">I"), struct.Struct(">Q")


def layout_of(key: bytes) -> bytes:
    return key[1 : 1 + LAYOUT_BYTES]


def run_key(kind: bytes, layout: bytes, number: int) -> bytes:
    return kind + layout + _NUMBER.pack(number)


def key_of(layout: bytes, held: HeldRun) -> bytes:
    return run_key(LARGE if held.large else SMALL, layout, held.number)


def number_of(key: bytes) -> int:
    """Of a run's key."""
    return int(_NUMBER.unpack(key[-_NUMBER.size :])[0])


def partition_of(key: bytes) -> int:
    """Of a position's key."""
    return int(_PARTITION.unpack(key[-_PARTITION.size :])[0])


def offsets(kind: bytes, layout: bytes, by_partition: Mapping[int, int]) -> dict[bytes, bytes]:
    """One of PLACES, as keys and values."""
    return {
        kind + layout + _PARTITION.pack(number): int64(offset)
        for number, offset in by_partition.items()
    }


def positions(
    layout: bytes, next_by_partition: Mapping[int, int], floor_us: int, erased_to: LogPlace
) -> dict[bytes, bytes]:
    """How far a layout has come, as keys and values."""
    places = offsets(POSITION, layout, next_by_partition)
    return places | {FLOOR + layout: int64(floor_us)} | erased_place(layout, erased_to)


def erased_place(layout: bytes, erased_to: LogPlace) -> dict[bytes, bytes]:
    """How far a layout follows the log of erased events, as keys and values."""
    return {
        ERASED + layout: int64(erased_to.offset),
        ERASED_LOG + layout: erased_to.log_id.encode(),
    }


def int64(value: int) -> bytes:
    return _INT64.pack(value)


def int_of(value: bytes) -> int:
    return int(_INT64.unpack(value)[0])

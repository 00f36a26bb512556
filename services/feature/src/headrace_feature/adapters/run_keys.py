# SPDX-License-Identifier: Apache-2.0
"""What stands where in the state store.

o | layout id | number            a small run
l | layout id | number            a large run: its arrays are in the folder of that name
p | layout id | partition         next offset that the layout reads there
f | layout id                     event time before which its observations may be gone
e | layout id                     place in the log of erased events before which none is held
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from headrace_feature.adapters.run_tiers import HeldRun

SMALL, LARGE, POSITION, FLOOR, ERASED = b"o", b"l", b"p", b"f", b"e"
KINDS = (SMALL, LARGE, POSITION, FLOOR, ERASED)
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


def position_key(layout: bytes, partition: int) -> bytes:
    return POSITION + layout + _PARTITION.pack(partition)


def positions(
    layout: bytes, next_by_partition: Mapping[int, int], floor_us: int, erased_to: int
) -> dict[bytes, bytes]:
    """How far a layout has come, as keys and values."""
    places = {position_key(layout, n): int64(offset) for n, offset in next_by_partition.items()}
    return places | {FLOOR + layout: int64(floor_us), ERASED + layout: int64(erased_to)}


def int64(value: int) -> bytes:
    return _INT64.pack(value)


def int_of(value: bytes) -> int:
    return int(_INT64.unpack(value)[0])

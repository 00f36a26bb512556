# SPDX-License-Identifier: Apache-2.0
"""Tiles: the observations of one entity in one hour of event time, each once, in a fixed order.

A tile is a function of the set of events in it: folding in any order, twice or late, gives the same
bytes. It keeps the observations themselves, so a window is exact at both edges as known at any
time. Rows are in order of (event time, id): a window's rows are its hours' tiles put together.
The day comes before the entity in the key: what is outlived lies together, and so does what is
written now.

    key    layout id (8) | day since 1970 (uint32, big endian) | entity id (16) | hour of it (uint8)
    value  rows (uint32) | rows x (event us, known us, present bits, columns...) int64 | ids by \\n
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace_feature.domain.entities import entity_id
from headrace_feature.domain.views import HOUR_US, Layout

EVENT, KNOWN, PRESENT, COLUMNS = 0, 1, 2, 3
_COUNT = struct.Struct("<I")
_DAY = struct.Struct(">I")
_TIMES = struct.Struct("<qq")
DAY_HOURS = 24
DAYS_MAX = 2**32 - 1
_HOURS = [bytes([hour]) for hour in range(DAY_HOURS + 1)]


@dataclass(frozen=True, slots=True)
class Numbers:
    """One column: int64 or float64 `values`, anything where not `present`."""

    values: NDArray[np.int64] | NDArray[np.float64]
    present: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Observations:
    """Records of one stream; every sequence has one entry per record, every column one too.

    `partitions` and `offsets` say where each was read. `texts` holds the entity columns.
    """

    ids: Sequence[str]
    event_us: Sequence[int]
    known_us: Sequence[int]
    partitions: Sequence[int]
    offsets: Sequence[int]
    texts: Mapping[str, Sequence[str | None]]
    numbers: Mapping[str, Numbers]


def tile_key(layout: Layout, hour: int, entity: bytes) -> bytes:
    return first_key(layout, hour // DAY_HOURS) + entity + _HOURS[hour % DAY_HOURS]


def first_key(layout: Layout, day: int) -> bytes:
    """Not above any key of the layout from this day on, above all before."""
    return layout.id + _DAY.pack(min(max(day, 0), DAYS_MAX))


def key_ranges(layout: Layout, entity: bytes, hours: range) -> Iterator[tuple[bytes, bytes]]:
    """(first, last excluded) for each day with these hours, in order."""
    for day in range(hours.start // DAY_HOURS, (hours.stop - 1) // DAY_HOURS + 1):
        prefix, midnight = first_key(layout, day) + entity, day * DAY_HOURS
        first = max(hours.start - midnight, 0)
        yield prefix + _HOURS[first], prefix + _HOURS[min(hours.stop - midnight, DAY_HOURS)]


def row_bytes(layout: Layout) -> int:
    return 8 * (COLUMNS + len(layout.columns))


def rows_of(value: bytes, size: int) -> bytes:
    """The rows of a tile, `size` bytes each, without the ids, which no read needs."""
    (count,) = _COUNT.unpack_from(value)
    return value[_COUNT.size : _COUNT.size + count * size]


def fold(
    layout: Layout,
    observations: Observations,
    chosen: Sequence[int],
    *,
    first_day: int,
    load: Callable[[Sequence[bytes]], Sequence[bytes | None]],
) -> dict[bytes, bytes]:
    """The tiles that change when the chosen observations come to what `load` gives for their keys.

    Those before `first_day` are behind what is kept.
    """
    fresh_by_key = _by_tile(layout, observations, chosen, first_day)
    rows, size = _rows(layout, observations), row_bytes(layout)
    ids, changed = observations.ids, {}
    for (key, numbers), old in zip(fresh_by_key.items(), load(list(fresh_by_key)), strict=True):
        if old is None and len(numbers) == 1:
            number = numbers[0]
            changed[key] = _encode([(ids[number], rows[number * size : (number + 1) * size])])
            continue
        fresh = ((ids[number], rows[number * size : (number + 1) * size]) for number in numbers)
        merged = _merge(list(_decode(layout, old)) if old is not None else [], fresh)
        if merged is not None:
            changed[key] = _encode(merged)
    return changed


def _by_tile(
    layout: Layout, observations: Observations, chosen: Sequence[int], first_day: int
) -> dict[bytes, list[int]]:
    texts = list(zip(*(observations.texts[column] for column in layout.entity), strict=True))
    event_us, pack, prefix = observations.event_us, _DAY.pack, layout.id
    by_key: dict[bytes, list[int]] = {}
    for number in chosen:
        entity = entity_id(texts[number])
        day, hour = divmod(event_us[number] // HOUR_US, DAY_HOURS)
        if entity is None or day < first_day:
            continue
        key = prefix + pack(day) + entity + _HOURS[hour]
        if (numbers := by_key.get(key)) is None:
            by_key[key] = [number]
        else:
            numbers.append(number)
    return by_key


def _rows(layout: Layout, observations: Observations) -> bytes:
    """All observations as rows of this layout, row after row."""
    matrix = np.zeros((len(observations.ids), COLUMNS + len(layout.columns)), dtype="<i8")
    matrix[:, EVENT], matrix[:, KNOWN] = observations.event_us, observations.known_us
    for place, column in enumerate(layout.columns):
        numbers = observations.numbers[column]
        matrix[:, PRESENT] |= numbers.present.astype(np.int64) << place
        matrix[:, COLUMNS + place] = numbers.values.view(np.int64)
    return matrix.tobytes()


def _merge(
    old: Sequence[tuple[str, bytes]], fresh: Iterator[tuple[str, bytes]]
) -> list[tuple[str, bytes]] | None:
    """Each id once, as it was known first; None when nothing is new."""
    row_by_id = dict(old)
    changed = False
    for name, row in fresh:
        held = row_by_id.get(name)
        if held is None or _first_known(row) < _first_known(held):
            row_by_id[name] = row
            changed = True
    if not changed:
        return None
    return sorted(row_by_id.items(), key=lambda item: (_TIMES.unpack_from(item[1])[0], item[0]))


def _first_known(row: bytes) -> tuple[int, int, bytes]:
    event_us, known_us = _TIMES.unpack_from(row)
    return known_us, event_us, row


def _encode(items: Sequence[tuple[str, bytes]]) -> bytes:
    rows = b"".join(row for _, row in items)
    return _COUNT.pack(len(items)) + rows + "\n".join(name for name, _ in items).encode()


def _decode(layout: Layout, value: bytes) -> Iterator[tuple[str, bytes]]:
    size = row_bytes(layout)
    rows = rows_of(value, size)
    ids = value[_COUNT.size + len(rows) :].decode().split("\n")
    for number, name in enumerate(ids):
        yield name, rows[number * size : (number + 1) * size]

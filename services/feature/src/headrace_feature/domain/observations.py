# SPDX-License-Identifier: Apache-2.0
"""Runs of observations: columns in a fixed order, each observation once, never changed.

State is a set of runs; folding adds one, merging replaces several by one. What runs hold together
is a function of the set of events folded: order, repeats and batches leave no trace.

The order is (entity, event time, event id as bytes, partition). An observation that comes again
with its id in its partition is one; the first known stays. Behind each run's rows lie its ids,
which settle the order of equal event times and which no answer needs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from headrace_feature.domain.entities import digests_of_names
from headrace_feature.domain.records import Numbers
from headrace_feature.domain.views import Layout

if TYPE_CHECKING:
    import pyarrow as pa

    from headrace_feature.domain.tiles import Tiles

Words = NDArray[np.uint64]
Ints = NDArray[np.int64]
# The places of a row's parts; a column's int64 or float64 bits stand from COLUMNS on.
EVENT, KNOWN, FLAGS, ID_HASH, COLUMNS = 0, 1, 2, 3, 4
# Of FLAGS: the low bits say which columns are present, the high ones the partition.
PARTITION_SHIFT = 48
CODES_MAX = 2**62
# Of all ids so much is looked at together, so that a long one does not make the others wide.
PART_BYTES = 64
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True, slots=True)
class Ids:
    """Event ids in UTF-8, one behind the other: id k is `text[offsets[k]:offsets[k + 1]]`."""

    offsets: Ints
    text: NDArray[np.uint8]

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> Ids:
        lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        return cls(_bounds(lengths), np.frombuffer(b"".join(texts), dtype=np.uint8))

    @classmethod
    def of_arrow(cls, texts: pa.LargeStringArray | pa.LargeBinaryArray) -> Ids:
        """Without null; what Arrow holds is not copied."""
        if not len(texts):
            return cls.of([])
        _, offsets, text = texts.buffers()
        ends = np.frombuffer(offsets, dtype=np.int64)[texts.offset :][: len(texts) + 1]
        return cls(ends, np.frombuffer(text, dtype=np.uint8)[: ends[-1]]).sliced(0, len(texts))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, number: int) -> bytes:
        return self.text[self.offsets[number] : self.offsets[number + 1]].tobytes()

    def taken(self, order: Ints) -> Ids:
        """These ids in this order."""
        import pyarrow as pa  # an idle service does without

        # `pa.array` would load pandas, where it is installed, to ask what an array of numpy is.
        places = pa.Array.from_buffers(pa.int64(), len(order), [None, pa.py_buffer(order)])
        return Ids.of_arrow(self._arrow().take(places))

    def _arrow(self) -> pa.LargeBinaryArray:
        """The same bytes; what was read from a file may lie askew."""
        import pyarrow as pa

        offsets = np.require(self.offsets, requirements="A")
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(self.text)]
        return pa.Array.from_buffers(pa.large_binary(), len(self), buffers)

    def sliced(self, first: int, last: int) -> Ids:
        offsets = self.offsets[first : last + 1]
        return Ids(offsets - offsets[0], self.text[offsets[0] : offsets[-1]])

    def hashes(self) -> Words:
        """64 bits of each id, to find equal ones; equal on every machine and in every version.

        Words of the text, mixed as in splitmix64 (Steele, Lea and Flood, OOPSLA 2014): an id's own,
        however long the others are.
        """
        hashed = np.diff(self.offsets).astype(np.uint64)
        ids, rows = self, np.arange(len(self))
        while len(rows):
            lengths = np.diff(ids.offsets)
            for number, word in enumerate(ids.head().padded(8).view("<u8").T):
                has = lengths > 8 * number if number else slice(None)
                hashed[rows[has]] = _mixed(hashed[rows[has]] ^ word[has])
            long = np.flatnonzero(lengths > PART_BYTES)
            ids, rows = ids.rest(long), rows[long]
        return hashed

    def order(self, *, within: Ints, then: Ints | None = None) -> Ints:
        """Of each group the ids as bytes; equal ones by what comes `then`."""
        first = self.head()
        lengths = np.diff(first.offsets)
        # Bytes lie in the order of numbers whose first byte counts most.
        words = first.padded(8).view(">u8").T[::-1]
        order = np.lexsort((*([] if then is None else [then]), lengths, *words, within))
        if len(first.text) == len(self.text):
            return order
        group = _changes(within[order], lengths[order], *words[:, order]).cumsum()
        tied = np.flatnonzero((np.bincount(group)[group] > 1) & (lengths[order] == PART_BYTES))
        rows = order[tied]
        then = None if then is None else then[rows]
        order[tied] = rows[self.rest(rows).order(within=group[tied], then=then)]
        return order

    def head(self) -> Ids:
        """The first bytes of each."""
        lengths = np.diff(self.offsets)
        long = np.flatnonzero(lengths > PART_BYTES)
        if not len(long):
            return self
        kept = np.ones(len(self.text), dtype=np.bool_)
        kept[listed(self.offsets[long] + PART_BYTES, lengths[long] - PART_BYTES)] = False
        return Ids(_bounds(np.minimum(lengths, PART_BYTES)), self.text[kept])

    def rest(self, rows: Ints) -> Ids:
        """What is behind the head of these, each of which has a whole one."""
        starts, lengths = self.offsets[rows], np.diff(self.offsets)[rows]
        lengths = lengths - PART_BYTES
        return Ids(_bounds(lengths), self.text[listed(starts + PART_BYTES, lengths)])

    def padded(self, word_bytes: int) -> NDArray[np.uint8]:
        """[ids, bytes]: each in whole words, with zeros behind it."""
        lengths = np.diff(self.offsets)
        width = -(-int(lengths.max(initial=1)) // word_bytes) * word_bytes
        padded = np.zeros((len(lengths), width), dtype=np.uint8)
        padded[np.arange(width) < lengths[:, None]] = self.text
        return padded


@dataclass(frozen=True, slots=True)
class NamedTexts:
    """One entity column: `texts[codes]`, absent where the code is -1; no text is there twice.

    `names`: of each text, what it is in an entity's name (`headrace.entity.entity_name`).
    """

    codes: Ints
    texts: Sequence[str]
    names: Sequence[bytes]


@dataclass(frozen=True, slots=True, eq=False)
class Observations:
    """Records of one stream as they were read; every array has one entry per record.

    `partitions` and `offsets` say where; `published_ms`: -1 where nobody said. `texts` holds the
    entity columns, `numbers` the others, `counted` by filter where it holds. `erased`: those that
    speak of an erased entity, of which nothing is kept.
    """

    ids: Ids
    event_us: Ints
    known_us: Ints
    published_ms: Ints
    partitions: Ints
    offsets: Ints
    texts: Mapping[str, NamedTexts]
    numbers: Mapping[str, Numbers]
    erased: NDArray[np.bool_]
    counted: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scale:
    """How a run's rows lie on one line: entity after entity, each in its time since `base_us`.

    An entity has 2^`bits` places of 2^`shift` us: a line of int64 holds them all, so that one
    search finds the times of many entities. Where the places are coarse it finds a little more.
    """

    base_us: int
    bits: int
    shift: int

    @classmethod
    def of(cls, entities: int, oldest_us: int, newest_us: int) -> Scale:
        bits = 62 - max(entities, 1).bit_length()
        return cls(oldest_us, bits, max(0, (newest_us - oldest_us).bit_length() - bits))

    def places(self, entities: Ints, event_us: Ints) -> Ints:
        """A time before the base lies before the entity, one behind its places on the last."""
        within = (event_us - self.base_us) >> self.shift
        # Two calls are several times as fast as `np.clip` on the few numbers of a read.
        within = np.minimum(np.maximum(within, -1), (1 << self.bits) - 1)
        return (entities << self.bits) + within


class AnyRun(Protocol):
    """A run, wherever its rows are: in memory, or in files of which only what is asked for is read.

    `entities`: [2, entities] the halves of their digests, each once. `newest_us`, `oldest_us`: no
    event time is outside. `tiles`: by place of an entity, what was added up of its rows so far.
    """

    @property
    def entities(self) -> Words: ...

    @property
    def oldest_us(self) -> int: ...

    @property
    def newest_us(self) -> int: ...

    @property
    def width(self) -> int:
        """Of a row."""

    @property
    def tiles(self) -> dict[int, Tiles]: ...

    def __len__(self) -> int: ...

    def bounds(self, entities: Ints) -> tuple[Ints, Ints]:
        """Rows, first and last excluded, of each entity."""

    def ranges(self, entities: Ints, since_us: Ints, until_us: Ints) -> tuple[Ints, Ints]:
        """The same of those after one time and up to another; a few more at both ends, perhaps."""

    def stretch(self, first: int, last: int) -> Ints:
        """[rows, width]: from `first` to `last`, excluded."""

    def rows(self, rows: Ints) -> Ints:
        """[rows, width]: these."""

    def id_bytes(self, rows: Ints) -> Ints:
        """How long the ids of these rows are."""

    def text_bytes(self, first: Ints, last: Ints) -> Ints:
        """How long the ids of each stretch are, without a look at each row."""

    def ids_of(self, rows: Ints) -> Ids:
        """Of these rows, in this order."""

    def sliced(self, first: int, last: int) -> Run:
        """Entities `first` to `last`, excluded."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Observations in order, in memory.

    Those of entity k are rows `starts[k]` to `starts[k + 1]` of `matrix`: [rows, 4 + columns].
    `line`: where each row lies by `scale`.
    """

    entities: Words
    starts: Ints
    matrix: Ints
    ids: Ids
    line: Ints
    scale: Scale
    newest_us: int
    tiles: dict[int, Tiles] = field(default_factory=dict)

    @classmethod
    def of(cls, entities: Words, starts: Ints, matrix: Ints, ids: Ids) -> Run:
        event_us, count = matrix[:, EVENT], entities.shape[1]
        oldest_us, newest_us = (int(event_us.min()), int(event_us.max())) if len(matrix) else (0, 0)
        scale = Scale.of(count, oldest_us, newest_us)
        line = scale.places(np.arange(count).repeat(np.diff(starts)), event_us)
        return cls(entities, starts, matrix, ids, line, scale, newest_us)

    def __len__(self) -> int:
        return len(self.matrix)

    @property
    def width(self) -> int:
        return self.matrix.shape[1]

    @property
    def oldest_us(self) -> int:
        return self.scale.base_us

    def bounds(self, entities: Ints) -> tuple[Ints, Ints]:
        return self.starts[entities], self.starts[entities + 1]

    def ranges(self, entities: Ints, since_us: Ints, until_us: Ints) -> tuple[Ints, Ints]:
        """A few more at both ends where the scale is coarse."""
        since = np.maximum(self.scale.places(entities, since_us), entities << self.scale.bits)
        first = self.line.searchsorted(since, "left")
        last = self.line.searchsorted(self.scale.places(entities, until_us), "right")
        return first, last

    def stretch(self, first: int, last: int) -> Ints:
        return self.matrix[first:last]

    def rows(self, rows: Ints) -> Ints:
        return self.matrix[rows]

    def id_bytes(self, rows: Ints) -> Ints:
        return np.diff(self.ids.offsets)[rows]

    def text_bytes(self, first: Ints, last: Ints) -> Ints:
        return self.ids.offsets[last] - self.ids.offsets[first]

    def ids_of(self, rows: Ints) -> Ids:
        return self.ids.taken(rows)

    def per_row(self) -> Words:
        """[2, rows]: the entity of each row."""
        return self.entities.repeat(np.diff(self.starts), axis=1)

    def sliced(self, first: int, last: int) -> Run:
        starts = self.starts[first : last + 1]
        rows = slice(int(starts[0]), int(starts[-1]))
        return Run.of(
            self.entities[:, first:last],
            starts - starts[0],
            self.matrix[rows],
            self.ids.sliced(rows.start, rows.stop),
        )


def run_of(observations: Observations, layout: Layout, rows: Ints) -> Run:
    """What these records are to a layout; those without entity are nothing."""
    entities, named = _entities(observations, layout.entity, rows)
    rows = rows[named]
    matrix = np.zeros((len(rows), COLUMNS + layout.width), dtype=np.int64)
    matrix[:, EVENT] = observations.event_us[rows]
    matrix[:, KNOWN] = observations.known_us[rows]
    matrix[:, FLAGS] = observations.partitions[rows] << PARTITION_SHIFT
    for place, column in enumerate(layout.columns):
        numbers = observations.numbers[column]
        present = numbers.present[rows]
        matrix[:, FLAGS] |= present.astype(np.int64) << place
        matrix[:, COLUMNS + place] = np.where(present, numbers.values[rows].view(np.int64), 0)
    for number, key in enumerate(layout.keys):
        place = len(layout.columns) + 2 * number
        digest, found = _entities(observations, key, rows)
        matrix[found, FLAGS] |= np.int64(1) << place
        matrix[found, COLUMNS + place : COLUMNS + place + 2] = digest.view(np.int64).T
    ids = observations.ids.taken(rows)
    matrix[:, ID_HASH] = ids.hashes().view(np.int64)
    return ordered(entities, matrix, ids)


def empty_run(layout: Layout) -> Run:
    """A run of nothing."""
    matrix = np.empty((0, COLUMNS + layout.width), dtype=np.int64)
    return ordered(np.empty((2, 0), dtype=np.uint64), matrix, Ids.of([]))


def _entities(
    observations: Observations, named_by: Sequence[str], rows: Ints
) -> tuple[Words, Ints]:
    """The digests of the rows that have an entity by these columns, and which these are."""
    columns = [observations.texts[name] for name in named_by]
    named = np.ones(len(rows), dtype=np.bool_)
    for column in columns:
        named &= column.codes[rows] >= 0
    kept = np.flatnonzero(named)
    codes = [column.codes[rows[kept]] for column in columns]
    some, place = _distinct(codes, [len(column.texts) for column in columns])
    parts = [
        list(map(column.names.__getitem__, own[some].tolist()))
        for column, own in zip(columns, codes, strict=True)
    ]
    names = parts[0] if len(parts) == 1 else list(map(b"".join, zip(*parts, strict=True)))
    return digests_of_names(names)[:, place], kept


def _distinct(codes: Sequence[Ints], counts: Sequence[int]) -> tuple[Ints, Ints]:
    """Of combinations of codes, each below its count, where each stands, and which each is.

    Where the product of the counts leaves int64, those of before are numbered anew.
    """
    code, bound = codes[0], counts[0]
    for own, count in zip(codes[1:], counts[1:], strict=True):
        if bound * count > CODES_MAX:
            code = np.unique(code, return_inverse=True)[1]
            bound = len(code)
        code, bound = code * count + own, bound * count
    distinct, place = np.unique(code, return_inverse=True)
    some = np.empty(len(distinct), dtype=np.int64)
    some[place] = np.arange(len(code))
    return some, place


def merged(runs: Sequence[Run], *, floor_us: int, partitions: Collection[int] | None = None) -> Run:
    """One run of what these hold, without what is older than the floor or of other partitions."""
    entities = np.concatenate([run.per_row() for run in runs], axis=1)
    matrix = np.concatenate([run.matrix for run in runs])
    ids = joined_ids([run.ids for run in runs])
    wanted = matrix[:, EVENT] >= floor_us
    if partitions is not None:
        wanted &= np.isin(_partition(matrix), list(partitions))
    kept = np.flatnonzero(wanted)
    if len(kept) < len(matrix):
        entities, matrix, ids = entities[:, kept], matrix[kept], ids.taken(kept)
    return ordered(entities, matrix, ids)


def listed(starts: Ints, lengths: Ints) -> Ints:
    """start, start + 1, ... of every range, end to end."""
    ends = lengths.cumsum()
    before = starts - ends + lengths
    return np.arange(ends[-1] if len(ends) else 0) + before.repeat(lengths)


def ordered(entities: Words, matrix: Ints, ids: Ids) -> Run:
    """One run of these rows; `entities`: [2, rows]."""
    order = _settled(_by_time(entities, matrix), entities, matrix, ids)
    return in_order(entities.take(order, axis=1), matrix.take(order, axis=0), ids.taken(order))


def in_order(entities: Words, matrix: Ints, ids: Ids) -> Run:
    """The same of rows that lie in a run's order already."""
    first = np.flatnonzero(_changes(*entities))
    return Run.of(entities[:, first], np.concatenate((first, [len(matrix)])), matrix, ids)


def _by_time(entities: Words, matrix: Ints) -> Ints:
    """By entity and event time, equal ones as they came.

    Rows come nearly in order of time, so one sort of numbers does nearly all: the upper bits of an
    entity's first half, and below them the row's place. What that leaves in disorder is sorted
    again: an entity's late rows, or all where the upper bits do not tell entities apart.
    """
    high, low = entities
    places = np.uint64((1 << len(high).bit_length()) - 1)
    numbered = high & ~places | np.arange(len(high), dtype=np.uint64)
    order = (np.sort(numbered) & places).astype(np.int64)
    words, event_us = high[order], matrix[order, EVENT]
    other = _changes(words)
    if (words[1:] < words[:-1]).any() or (_changes(low[order]) & ~other).any():
        return np.lexsort((matrix[:, EVENT], low, high))
    late = ~other[1:] & (event_us[1:] < event_us[:-1])
    if late.any():
        entity = other.cumsum()
        rows = np.flatnonzero(np.bincount(entity[1:][late], minlength=len(entity) + 1)[entity])
        order[rows] = order[rows][np.lexsort((event_us[rows], entity[rows]))]
    return order


def _settled(order: Ints, entities: Words, matrix: Ints, ids: Ids) -> Ints:
    """Equal event times of one entity in the order of their ids, repeats left out."""
    tied = ~_changes(*entities[:, order], matrix[order, EVENT])
    if not tied.any():
        return order
    group = (~tied).cumsum()
    doubtful = np.flatnonzero(np.bincount(group)[group] > 1)
    order, rows = order.copy(), order[doubtful]
    content = matrix[rows]
    keys = (*contents(content), content[:, KNOWN], _partition(content))
    by_id = np.lexsort((*keys, content[:, ID_HASH], group[doubtful]))
    order[doubtful] = rows = rows[by_id]
    repeat = ~_changes(group[doubtful], matrix[rows, ID_HASH], _partition(matrix[rows]))
    places, rows = doubtful[~repeat], rows[~repeat]
    by_text = ids.taken(rows).order(within=group[places], then=_partition(matrix[rows]))
    order[places] = rows[by_text]
    return np.delete(order, doubtful[repeat])


def contents(matrix: Ints) -> tuple[Ints, ...]:
    """What decides between repeats that were known at one time, the last of it first: the lower
    row stays, whatever partition it came by."""
    present = matrix[:, FLAGS] & ((1 << PARTITION_SHIFT) - 1)
    return (*matrix[:, COLUMNS:].T, present)


def _changes(*columns: NDArray[np.generic]) -> NDArray[np.bool_]:
    """[rows]: whether a row differs from the one before; the first does."""
    changes = np.zeros(len(columns[0]), dtype=np.bool_)
    changes[:1] = True
    for column in columns:
        changes[1:] |= column[1:] != column[:-1]
    return changes


def whole(run: AnyRun) -> Run:
    """All of it, in memory."""
    return run if isinstance(run, Run) else run.sliced(0, run.entities.shape[1])


def _partition(matrix: Ints) -> Ints:
    return matrix[:, FLAGS] >> PARTITION_SHIFT


def joined_ids(parts: Sequence[Ids]) -> Ids:
    """One behind the other."""
    lengths = np.concatenate([np.diff(each.offsets) for each in parts])
    return Ids(_bounds(lengths), np.concatenate([each.text for each in parts]))


def _bounds(lengths: Ints) -> Ints:
    return np.concatenate((np.zeros(1, dtype=np.int64), lengths.cumsum()))


def _mixed(words: Words) -> Words:
    words = words + _MIX[0]
    words = (words ^ (words >> np.uint64(30))) * _MIX[1]
    words = (words ^ (words >> np.uint64(27))) * _MIX[2]
    return words ^ (words >> np.uint64(31))

# SPDX-License-Identifier: Apache-2.0
"""A run in a folder of plain arrays, of which a read takes the rows that it asks for.

The files are read and never mapped: how much of a mapped file counts as the process's is for the
system to say, which maps with a page whatever lies with it in its cache, megabytes at a time. In
memory are the halves of the entities' digests alone, 16 bytes each.
"""

from __future__ import annotations

import os
import struct
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from headrace_feature.domain.observations import EVENT, AnyRun, Ids, Ints, Run
from headrace_feature.domain.tiles import Tiles

# Places in a row, first and last event time; older versions wrote two bytes more.
_HEAD = struct.Struct("<Qqq")
# An entity with fewer rows is read whole: a search among them would cost more than it saves.
SEARCHED_ROWS_MIN = 64


def head_of(runs: Sequence[AnyRun]) -> bytes:
    """What must be known of the folder of the one run that these are, or become."""
    oldest_us, newest_us = min(run.oldest_us for run in runs), max(run.newest_us for run in runs)
    return _HEAD.pack(runs[0].width, oldest_us, newest_us)


class StoredRun:
    """AnyRun; any thread reads. The files outlive their names, and are closed with the run.

    Raises FileNotFoundError when one is missing.
    """

    def __init__(self, folder: Path, head: bytes) -> None:
        self.width, self.oldest_us, self.newest_us = _HEAD.unpack_from(head)
        high, low = (np.fromfile(folder / part, "<u8") for part in ("high", "low"))
        self.entities = np.stack((high, low))
        self._starts = _Records(folder / "starts", 8)
        self._matrix = _Records(folder / "matrix", 8 * self.width)
        self._offsets = _Records(folder / "offsets", 8)
        self._text = _Records(folder / "text", 1)
        files = (self._starts, self._matrix, self._offsets, self._text)
        self.bytes = self.entities.nbytes + sum(len(each) * each.record_bytes for each in files)
        self.tiles: dict[int, Tiles] = {}

    def __len__(self) -> int:
        return len(self._matrix)

    def bounds(self, entities: Ints) -> tuple[Ints, Ints]:
        first, last = _ints(self._starts.stretches(entities, entities + 2)).reshape(-1, 2).T
        return first.copy(), last.copy()

    def ranges(self, entities: Ints, since_us: Ints, until_us: Ints) -> tuple[Ints, Ints]:
        first, last = self.bounds(entities)
        many = np.flatnonzero(last - first >= SEARCHED_ROWS_MIN)
        if len(many):
            searched = self._searched(first[many], last[many], since_us[many], until_us[many])
            first[many], last[many] = searched
        return first, last

    def _searched(
        self, first: Ints, last: Ints, since_us: Ints, until_us: Ints
    ) -> tuple[Ints, Ints]:
        """By bisection, until few rows are left at each end."""
        low, high = np.tile(first, 2), np.tile(last, 2)
        moments_us = np.concatenate((since_us - 1, until_us))  # as `Run`: a row at `since` too
        while (high - low).max() >= SEARCHED_ROWS_MIN:
            middle = (low + high) >> 1
            # Where the search is over `middle` may lie behind the rows: it changes nothing there.
            event_us = self.rows(np.minimum(middle, len(self) - 1))[:, EVENT]
            after = event_us > moments_us
            low, high = (
                np.where(after | (low == high), low, middle + 1),
                np.where(after, middle, high),
            )
        return low[: len(first)], high[len(first) :]

    def stretch(self, first: int, last: int) -> Ints:
        return _ints(self._matrix.stretch(first, last)).reshape(-1, self.width)

    def rows(self, rows: Ints) -> Ints:
        first, last = _stretches(rows)
        return _ints(self._matrix.stretches(first, last)).reshape(-1, self.width)

    def id_bytes(self, rows: Ints) -> Ints:
        lengths, _, _ = self._texts(rows)
        return lengths

    def text_bytes(self, first: Ints, last: Ints) -> Ints:
        edges = np.concatenate((first, last))
        begins, ends = _ints(self._offsets.stretches(edges, edges + 1)).reshape(2, -1)
        return ends - begins

    def ids_of(self, rows: Ints) -> Ids:
        lengths, begins, ends = self._texts(rows)
        text = np.frombuffer(self._text.stretches(begins, ends), np.uint8)
        return Ids(np.concatenate(([0], lengths.cumsum())), text)

    def _texts(self, rows: Ints) -> tuple[Ints, Ints, Ints]:
        """How long each id is, and where the text of each stretch of rows begins and ends."""
        first, last = _stretches(rows)
        offsets = _ints(self._offsets.stretches(first, last + 1))
        ends = (last - first + 1).cumsum()
        begins = ends - (last - first + 1)
        lengths = np.delete(np.diff(offsets), ends[:-1] - 1)  # not from one stretch to the next
        return lengths, offsets[begins], offsets[ends - 1]

    def sliced(self, first: int, last: int) -> Run:
        starts = _ints(self._starts.stretch(first, last + 1))
        begin, end = int(starts[0]), int(starts[-1])
        offsets = _ints(self._offsets.stretch(begin, end + 1))
        text = np.frombuffer(self._text.stretch(int(offsets[0]), int(offsets[-1])), np.uint8)
        ids = Ids(offsets - offsets[0], text)
        return Run.of(self.entities[:, first:last], starts - begin, self.stretch(begin, end), ids)


class _Records:
    """A file of records of one size."""

    def __init__(self, path: Path, record_bytes: int) -> None:
        self._file, self.record_bytes = os.open(path, os.O_RDONLY), record_bytes
        self._path = path
        weakref.finalize(self, os.close, self._file)
        self._records = os.fstat(self._file).st_size // record_bytes

    def __len__(self) -> int:
        return self._records

    def stretch(self, first: int, last: int) -> bytes:
        """Records `first` to `last`, excluded."""
        return self._read((last - first) * self.record_bytes, first * self.record_bytes)

    def stretches(self, first: Ints, last: Ints) -> bytes:
        """One behind the other."""
        sizes, places = (last - first) * self.record_bytes, first * self.record_bytes
        return b"".join(map(self._read, sizes.tolist(), places.tolist()))

    def _read(self, size: int, place: int) -> bytes:
        """One call gives less where much is asked for, or where the file was cut."""
        read = os.pread(self._file, size, place)
        while len(read) < size:
            more = os.pread(self._file, size - len(read), place + len(read))
            if not more:
                raise EOFError(f"{self._path} ends before {place + size}")
            read += more
        return read


def _ints(stored: bytes) -> Ints:
    return np.frombuffer(stored, "<i8")


def _stretches(rows: Ints) -> tuple[Ints, Ints]:
    """First and last, excluded, of rows that follow each other."""
    goes_on = np.diff(rows) == 1
    edge = np.ones(min(len(rows), 1), dtype=np.bool_)
    return rows[np.concatenate((edge, ~goes_on))], rows[np.concatenate((~goes_on, edge))] + 1

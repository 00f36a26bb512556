# SPDX-License-Identifier: Apache-2.0
"""A run as bytes, for a small one, or as a folder of plain arrays that are mapped into memory.

Pages of a mapped file that were read count as the process's until it lets them go, though the
system could take them at any time: `let_go` gives them back, and costs the next reader a fault.

A folder is written piece by piece, so that a run may be larger than memory; it is complete when
its name is stored, and nobody looks into one that is not.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headrace_feature.domain.observations import EVENT, Ids, Run, Scale

# Rows, places in a row, entities, bytes of ids; then the arrays in the order of PARTS.
_SIZES = struct.Struct("<4sQQQQ")
MAGIC = b"run1"
# `line` is made again for a small run and stored for a large one.
PARTS = ("high", "low", "starts", "matrix", "offsets", "text")
DTYPES = {"high": "<u8", "low": "<u8", "text": "u1"}


def to_bytes(run: Run) -> bytes:
    sizes = _SIZES.pack(MAGIC, *run.matrix.shape, run.entities.shape[1], len(run.ids.text))
    return b"".join((sizes, *(array.tobytes() for array in _arrays(run).values())))


def from_bytes(stored: bytes) -> Run:
    """The arrays are views of the bytes."""
    magic, rows, width, entities, text = _SIZES.unpack_from(stored)
    if magic != MAGIC:
        raise ValueError(f"a stored run begins with {magic!r}")
    counts = (entities, entities, entities + 1, rows * width, rows + 1, text)
    at, arrays = _SIZES.size, []
    for part, count in zip(PARTS, counts, strict=True):
        array = np.frombuffer(stored, DTYPES.get(part, "<i8"), count, at)
        arrays.append(array)
        at += array.nbytes
    high, low, starts, matrix, offsets, ids = arrays
    return Run.of(np.stack((high, low)), starts, matrix.reshape(-1, width), Ids(offsets, ids))


_SCALE = struct.Struct("<QqqBB")
COPY_NOTE = "copy.json"  # beside the arrays: where the run was copied to


def scale_to_bytes(run_width: int, scale: Scale, newest_us: int) -> bytes:
    """What must be known of a folder to map it."""
    return _SCALE.pack(run_width, scale.base_us, newest_us, scale.bits, scale.shift)


def head_of(run: Run) -> bytes:
    """The same of a run that is mapped."""
    return scale_to_bytes(run.matrix.shape[1], run.scale, run.newest_us)


def run_paths(folder: Path) -> list[Path]:
    """The files of a run in its folder."""
    return sorted(each for each in folder.iterdir() if each.name != COPY_NOTE)


def write_folder(folder: Path, pieces: Iterable[Run], scale: Scale) -> Iterator[None]:
    """Write a piece a step; durable when the steps are over.

    The pieces, one or more, are in order and share no entity; the scale is that of all of them.
    """
    folder.mkdir(parents=True)
    rows = text = entities = 0
    with ExitStack() as stack:
        files = {part: stack.enter_context((folder / part).open("wb")) for part in (*PARTS, "line")}
        for number, piece in enumerate(pieces):
            after_first = int(number > 0)  # bounds follow each other: the first one once
            arrays = _arrays(piece)
            arrays["starts"] = (piece.starts + rows)[after_first:]
            arrays["offsets"] = (piece.ids.offsets + text)[after_first:]
            ours = np.arange(entities, entities + piece.entities.shape[1])
            arrays["line"] = scale.places(
                ours.repeat(np.diff(piece.starts)), piece.matrix[:, EVENT]
            )
            rows, text = rows + len(piece), text + len(piece.ids.text)
            entities += len(ours)
            for part, file in files.items():
                file.write(np.ascontiguousarray(arrays[part]).data)
                file.flush()
                os.fdatasync(file.fileno())
            yield
    for each in (folder, folder.parent):
        sync_folder(each)


def folder_bytes(run: Run) -> int:
    """What the run takes in a folder."""
    return run.line.nbytes + sum(array.nbytes for array in _arrays(run).values())


Maps = Sequence[mmap.mmap]


def map_folder(folder: Path, scale: bytes) -> tuple[Run, Maps]:
    """The arrays are read from the files when they are touched; they outlive the files' names."""
    width, base_us, newest_us, bits, shift = _SCALE.unpack(scale)
    maps = [_mapped(folder / part) for part in (*PARTS, "line")]
    high, low, starts, matrix, offsets, text, line = (
        np.frombuffer(each if each is not None else b"", DTYPES.get(part, "<i8"))
        for each, part in zip(maps, (*PARTS, "line"), strict=True)
    )
    run = Run(
        # The halves are looked up in every read: they stay in memory, the rows are mapped.
        np.stack((high, low)),
        starts,
        matrix.reshape(-1, width),
        Ids(offsets, text),
        line,
        Scale(base_us, bits, shift),
        newest_us,
    )
    return run, [each for each in maps if each is not None]


def let_go(maps: Maps) -> None:
    """Give the pages back to the system, which may keep them in its cache."""
    for each in maps:
        each.madvise(mmap.MADV_DONTNEED)


def _mapped(path: Path) -> mmap.mmap | None:
    """None for an empty file, which cannot be mapped."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) if path.stat().st_size else None


def _arrays(run: Run) -> dict[str, NDArray[np.generic]]:
    arrays = (*run.entities, run.starts, run.matrix, run.ids.offsets, run.ids.text)
    return dict(zip(PARTS, arrays, strict=True))


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

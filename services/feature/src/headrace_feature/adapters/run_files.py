# SPDX-License-Identifier: Apache-2.0
"""A run as bytes, for a small one, or as a folder of plain arrays that are mapped into memory.

A folder is written piece by piece, so that a run may be larger than memory; it is complete when
its name is stored, and nobody looks into one that is not.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

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


def scale_to_bytes(run_width: int, scale: Scale, newest_us: int) -> bytes:
    """What must be known of a folder to map it."""
    return _SCALE.pack(run_width, scale.base_us, newest_us, scale.bits, scale.shift)


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
        _sync_folder(each)


def folder_bytes(run: Run) -> int:
    """What the run takes in a folder."""
    return run.line.nbytes + sum(array.nbytes for array in _arrays(run).values())


def map_folder(folder: Path, scale: bytes) -> Run:
    """The arrays are read from the files when they are touched; they outlive the files' names."""
    width, base_us, newest_us, bits, shift = _SCALE.unpack(scale)
    high, low, starts, matrix, offsets, text, line = (
        _mapped(folder / part, DTYPES.get(part, "<i8")) for part in (*PARTS, "line")
    )
    return Run(
        # The halves are looked up in every read: they stay in memory, the rows are mapped.
        np.stack((high, low)),
        starts,
        matrix.reshape(-1, width),
        Ids(offsets, text),
        line,
        Scale(base_us, bits, shift),
        newest_us,
    )


def _mapped(path: Path, dtype: str) -> NDArray[Any]:
    if not path.stat().st_size:
        return np.empty(0, dtype)
    return np.memmap(path, dtype, "r").view(np.ndarray)


def _arrays(run: Run) -> dict[str, NDArray[np.generic]]:
    arrays = (*run.entities, run.starts, run.matrix, run.ids.offsets, run.ids.text)
    return dict(zip(PARTS, arrays, strict=True))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

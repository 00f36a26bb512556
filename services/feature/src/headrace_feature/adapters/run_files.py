# SPDX-License-Identifier: Apache-2.0
"""A run as bytes, for a small one, or as a folder of plain arrays.

A folder is written piece by piece, so that a run may be larger than memory; it is complete when
its name is stored, and nobody looks into one that is not.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headrace_feature.domain.observations import Ids, Run

# Rows, places in a row, entities, bytes of ids; then the arrays in the order of PARTS.
_SIZES = struct.Struct("<4sQQQQ")
MAGIC = b"run1"
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


COPY_NOTE = "copy.json"  # beside the arrays: where the run was copied to


def run_paths(folder: Path) -> list[Path]:
    """The files of a run in its folder."""
    return sorted(each for each in folder.iterdir() if each.name != COPY_NOTE)


def write_folder(folder: Path, pieces: Iterable[Run]) -> Iterator[None]:
    """Write a piece a step; durable when the steps are over.

    The pieces, one or more, are in order and share no entity.
    """
    folder.mkdir(parents=True)
    rows = text = 0
    with ExitStack() as stack:
        files = {part: stack.enter_context((folder / part).open("wb")) for part in PARTS}
        for number, piece in enumerate(pieces):
            after_first = int(number > 0)  # bounds follow each other: the first one once
            arrays = _arrays(piece)
            arrays["starts"] = (piece.starts + rows)[after_first:]
            arrays["offsets"] = (piece.ids.offsets + text)[after_first:]
            rows, text = rows + len(piece), text + len(piece.ids.text)
            for part, file in files.items():
                file.write(np.ascontiguousarray(arrays[part]).data)
                file.flush()
                os.fdatasync(file.fileno())
            yield
    for each in (folder, folder.parent):
        sync_folder(each)


def _arrays(run: Run) -> dict[str, NDArray[np.generic]]:
    arrays = (*run.entities, run.starts, run.matrix, run.ids.offsets, run.ids.text)
    return dict(zip(PARTS, arrays, strict=True))


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

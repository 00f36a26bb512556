# SPDX-License-Identifier: Apache-2.0
"""The digest of rows by their content alone: sha256, whatever files and batches they came in.

Of each column three streams of bytes are hashed: which values are there (a byte each), the lengths
of texts (uint32), and the values (little endian; absent ones as 0 or nothing). The digest is that
of the names, types and digests of the columns, one a line. Rows must come in a canonical order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class ContentDigest:
    """Add batches in order, then ask."""

    def __init__(self, types: Mapping[str, str]) -> None:
        self._columns = {name: _ColumnDigest(kind) for name, kind in types.items()}

    def add(self, batch: pa.RecordBatch) -> None:
        for name, column in self._columns.items():
            column.add(batch.column(name))

    def hexdigest(self) -> str:
        lines = [f"{name}:{each.kind}:{each.hexdigest()}" for name, each in self._columns.items()]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class _ColumnDigest:
    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._parts = [hashlib.sha256() for _ in range(3)]

    def add(self, values: Any) -> None:
        present, lengths, data = self._parts
        present.update(values.is_valid().cast(pa.uint8()).to_numpy().tobytes())
        if self.kind == "string":
            filled = pc.fill_null(values, "").cast(pa.large_string())
            lengths.update(pc.binary_length(filled).to_numpy().astype("<u4").tobytes())
            data.update(_characters(filled))
        else:
            filled = pc.fill_null(values, False if self.kind == "bool" else 0)
            numbers = filled.to_numpy(zero_copy_only=False)
            data.update(numbers.astype("<f8" if self.kind == "float64" else "<i8").tobytes())

    def hexdigest(self) -> str:
        return hashlib.sha256(b"".join(part.digest() for part in self._parts)).hexdigest()


def _characters(texts: pa.LargeStringArray) -> memoryview:
    """The UTF-8 of all texts, one after the other: as Arrow holds them."""
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return memoryview(data or b"")[int(ends[0]) : int(ends[-1])]

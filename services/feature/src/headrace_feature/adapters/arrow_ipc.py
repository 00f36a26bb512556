# SPDX-License-Identifier: Apache-2.0
"""A training set as one Arrow IPC stream, in pieces that fit a message, and its digest."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator

import numpy as np

from headrace_feature.domain.training_set import TrainingSet

BATCH_BYTES = 4 << 20
PIECE_BYTES_MAX = 1 << 20


class ArrowIpcStream:
    """Iterate once for the pieces; then `digest` is the sha256 of all of them."""

    def __init__(self, training_set: TrainingSet) -> None:
        self._set = training_set
        self._sha256 = hashlib.sha256()

    @property
    def digest(self) -> str:
        return self._sha256.hexdigest()

    def __iter__(self) -> Iterator[bytes]:
        for written in self._written():
            for first in range(0, len(written), PIECE_BYTES_MAX):
                piece = written[first : first + PIECE_BYTES_MAX]
                self._sha256.update(piece)
                yield piece

    def _written(self) -> Iterator[bytes]:
        import pyarrow as pa

        rows, width = self._set.values.shape
        schema = pa.schema(
            [
                ("entity_key", pa.string()),
                ("as_of_us", pa.int64()),
                ("label", pa.float32()),
                ("features", pa.list_(pa.float32(), width)),
            ]
        )
        sink = io.BytesIO()
        step = max(1, BATCH_BYTES // (4 * width))
        with pa.ipc.new_stream(sink, schema) as writer:
            for first in range(0, rows, step):
                writer.write_batch(_batch(self._set, slice(first, first + step), schema))
                yield _emptied(sink)
        yield _emptied(sink)


def _batch(training_set: TrainingSet, rows: slice, schema: object) -> object:
    import pyarrow as pa

    values = np.ascontiguousarray(training_set.values[rows])
    features = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    return pa.record_batch(
        [
            pa.array(training_set.entity_keys[rows], pa.string()),
            pa.array(training_set.as_of_us[rows]),
            pa.array(training_set.label[rows]),
            features,
        ],
        schema=schema,
    )


def _emptied(sink: io.BytesIO) -> bytes:
    written = sink.getvalue()
    sink.seek(0)
    sink.truncate()
    return written

# SPDX-License-Identifier: Apache-2.0
"""Rows as one Arrow IPC stream in pieces that fit a message: those that a caller sends, and those
that are answered."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.errors import Invalid
from headrace.pieces import PieceFile, pieces_of
from headrace_feature.adapters.conversions import MOMENT_MAX
from headrace_feature.adapters.duckdb_workbench import AS_OF
from headrace_feature.domain.completeness import check_not_to_come
from headrace_feature.domain.training_set import Batch
from headrace_kit.clock import Clock

Answers = NDArray[np.float32]


class ArrowIpcStream:
    """Iterate once for the pieces; then `digest` is the sha256 of all of them."""

    def __init__(self, batches: Iterable[Any], schema: Any) -> None:
        self._batches, self._schema = batches, schema
        self._sha256 = hashlib.sha256()

    @property
    def digest(self) -> str:
        return self._sha256.hexdigest()

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._written():
            self._sha256.update(piece)
            yield piece

    def _written(self) -> Iterator[bytes]:
        import pyarrow as pa

        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, self._schema) as writer:
            for batch in self._batches:
                writer.write_batch(batch)
                yield from pieces_of(sink)
        yield from pieces_of(sink)


def training_stream(answered: Iterable[tuple[Batch, Answers]], width: int) -> ArrowIpcStream:
    """`entity_key`, `as_of_us`, `label`, and `features` as a list of one length."""
    import pyarrow as pa

    names = ("entity_key", "as_of_us", "label")
    features = pa.list_(pa.float32(), width)
    types = (pa.string(), pa.int64(), pa.float32(), features)
    schema = pa.schema(list(zip((*names, "features"), types, strict=True)))

    def batch(data: Any, answers: Answers) -> Any:
        flat = pa.array(np.ascontiguousarray(answers).reshape(-1))
        values = pa.FixedSizeListArray.from_arrays(flat, width)
        return pa.record_batch([*(data.column(name) for name in names), values], schema=schema)

    return ArrowIpcStream((batch(each.data, answers) for each, answers in answered), schema)


def historical_stream(
    answered: Iterable[tuple[Batch, Answers]], features: tuple[str, ...], rows: Any
) -> ArrowIpcStream:
    """The rows as they came, `rows` their schema, with a float32 column for each feature."""
    import pyarrow as pa

    schema = pa.schema([*rows, *((name, pa.float32()) for name in features)])

    def batch(data: Any, answers: Answers) -> Any:
        columns = [pa.array(column) for column in np.ascontiguousarray(answers.T)]
        return pa.record_batch([*data.columns, *columns], schema=schema)

    return ArrowIpcStream((batch(each.data, answers) for each, answers in answered), schema)


class SentRows:
    """The rows that a caller sends; `digest` is the sha256 of all pieces, once they are read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        import pyarrow as pa

        self._sha256 = hashlib.sha256()
        self._source = PieceFile(self._noted(pieces))
        try:
            self._reader = pa.ipc.open_stream(pa.PythonFile(self._source, "r"))
            # A name of a column is decoded where it is looked at.
            self.schema = _checked(self._reader.schema)
        except (pa.ArrowException, OSError, ValueError) as err:
            raise _no_rows(err) from err

    @property
    def digest(self) -> str:
        return self._sha256.hexdigest()

    def check_beside(self, features: Sequence[str]) -> None:
        """Raises Invalid BAD_REQUEST where the answer would have two columns of one name."""
        names = [*self.schema.names, *features]
        if twice := sorted({name for name in features if names.count(name) > 1}):
            problem = f"{twice[0]} is named twice, or is a column of the rows"
            raise Invalid("BAD_REQUEST", field="features", problem=problem)

    def _noted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._sha256.update(piece)
            yield piece

    def batches(self, clock: Clock) -> Iterator[Any]:
        """Raises Invalid BAD_REQUEST for bytes that are no such stream, and for a row without
        moment or as of one to come."""
        import pyarrow as pa

        try:
            for batch in self._reader:
                batch.validate(full=True)
                _check_moments(batch.column(AS_OF), clock.now_us())
                yield batch
            # What lies behind the end of the stream belongs to the bytes that were sent.
            self._source.drain()
        except (pa.ArrowException, OSError, ValueError) as err:
            raise _no_rows(err) from err


def _checked(schema: Any) -> Any:
    import pyarrow as pa

    kinds = [pa.types.is_string, pa.types.is_large_string, pa.types.is_integer]
    kinds += [pa.types.is_floating, pa.types.is_boolean]
    if AS_OF not in schema.names or schema.field(AS_OF).type != pa.int64():
        raise Invalid("BAD_REQUEST", field=AS_OF, problem="must be a column of int64")
    for field in schema:
        if schema.names.count(field.name) > 1:
            raise Invalid("BAD_REQUEST", field=field.name, problem="a column is given twice")
        if not any(kind(field.type) for kind in kinds):
            raise Invalid("BAD_REQUEST", field=field.name, problem=f"cannot be {field.type}")
    return schema


def _check_moments(moments: Any, now_us: int) -> None:
    import pyarrow.compute as pc

    bounds = pc.min_max(moments).as_py()
    given = moments.null_count == 0
    if len(moments) and not (given and bounds["min"] >= 0 and bounds["max"] < MOMENT_MAX):
        raise Invalid("BAD_REQUEST", field=AS_OF, problem="must be given, microseconds since 1970")
    check_not_to_come(AS_OF, bounds["max"] or 0, now_us)


def _no_rows(err: Exception) -> Invalid:
    problem = f"is no Arrow IPC stream: {str(err)[:200]}"
    return Invalid("BAD_REQUEST", field="arrow_ipc", problem=problem)

# SPDX-License-Identifier: Apache-2.0
"""Historical features: rows go up as one Arrow stream, and come back with their features.

Both ways batch by batch, so that neither side has to hold all rows. pyarrow is imported when it is
needed: the client works without it.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import grpc

from headrace.errors import Corrupt, Invalid, Unavailable
from headrace.feature.v1 import feature_service_pb2 as wire
from headrace.feature.v1 import feature_service_pb2_grpc as service
from headrace.rpc import error_of

if TYPE_CHECKING:
    import pyarrow as pa

PIECE_BYTES_MAX = 1 << 20
TIMEOUT_S = 300.0


class HistoricalFeatures:
    """Iterate once for the record batches; `manifest` is there when they have been read.

    A batch has the columns that were sent and a float32 column for each feature, NaN where absent.
    """

    def __init__(self, responses: Iterator[wire.GetHistoricalFeaturesResponse]) -> None:
        self._pieces = _Pieces(responses)

    @property
    def manifest(self) -> wire.HistoricalManifest:
        if self._pieces.manifest is None:
            raise Invalid("BAD_REQUEST", field="manifest", problem="comes behind the last batch")
        return self._pieces.manifest

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Raises the error of the service, Corrupt DIGEST_MISMATCH, Unavailable when cut short."""
        import pyarrow as pa

        with pa.ipc.open_stream(pa.PythonFile(self._pieces, "r")) as reader:
            yield from reader
        self._pieces.finish()

    def to_table(self) -> pa.Table:
        """All of it in memory."""
        import pyarrow as pa

        with pa.ipc.open_stream(pa.PythonFile(self._pieces, "r")) as reader:
            table = reader.read_all()
        self._pieces.finish()
        return table


def ask(
    stub: service.FeatureServiceStub,
    rows: pa.Table | Iterable[pa.RecordBatch],
    query: wire.HistoricalQuery,
) -> HistoricalFeatures:
    import pyarrow as pa

    batches = rows.to_batches() if isinstance(rows, pa.Table) else rows
    schema = rows.schema if isinstance(rows, pa.Table) else None
    requests = _requests(query, batches, schema)
    return HistoricalFeatures(stub.GetHistoricalFeatures(requests, timeout=TIMEOUT_S))


def _requests(
    query: wire.HistoricalQuery, batches: Iterable[pa.RecordBatch], schema: Any
) -> Iterator[wire.GetHistoricalFeaturesRequest]:
    yield wire.GetHistoricalFeaturesRequest(query=query)
    for written in _written(batches, schema):
        for first in range(0, len(written), PIECE_BYTES_MAX):
            piece = written[first : first + PIECE_BYTES_MAX]
            yield wire.GetHistoricalFeaturesRequest(arrow_ipc=piece)


def _written(batches: Iterable[pa.RecordBatch], schema: Any) -> Iterator[bytes]:
    import pyarrow as pa

    sink, writer = io.BytesIO(), None
    for batch in batches:
        writer = writer or pa.ipc.new_stream(sink, schema or batch.schema)
        writer.write_batch(batch)
        yield _emptied(sink)
    if writer is None and schema is not None:
        writer = pa.ipc.new_stream(sink, schema)
    if writer is not None:
        writer.close()
    yield _emptied(sink)


def _emptied(sink: io.BytesIO) -> bytes:
    written = sink.getvalue()
    sink.seek(0)
    sink.truncate()
    return written


class _Pieces(io.RawIOBase):
    """The answer's bytes as a file, with their digest."""

    def __init__(self, responses: Iterator[wire.GetHistoricalFeaturesResponse]) -> None:
        super().__init__()
        self._responses, self._left, self._sha256 = responses, b"", hashlib.sha256()
        self.manifest: wire.HistoricalManifest | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        parts, wanted = [], -1 if size is None else size
        while wanted and (self._left or self._next()):
            part = self._left if wanted < 0 else self._left[:wanted]
            self._left = self._left[len(part) :]
            wanted -= len(part) if wanted > 0 else 0
            parts.append(part)
        return b"".join(parts)

    def finish(self) -> None:
        while self._next():
            self._left = b""
        if self.manifest is None:
            raise Unavailable("SERVICE_UNAVAILABLE", service="feature", problem="stream cut short")
        if self._sha256.hexdigest() != self.manifest.digest:
            raise Corrupt("DIGEST_MISMATCH", artifact="historical features")

    def _next(self) -> bool:
        try:
            for response in self._responses:
                if response.HasField("manifest"):
                    self.manifest = response.manifest
                elif response.arrow_ipc:
                    self._left = response.arrow_ipc
                    self._sha256.update(self._left)
                    return True
        except grpc.RpcError as err:
            raise error_of(err) from err
        return False


def query_of(
    features: Sequence[str],
    known_as_of_us: int | None,
    manifest: wire.HistoricalManifest | None,
) -> wire.HistoricalQuery:
    """`manifest`: of an answer that is wanted again."""
    query = wire.HistoricalQuery(features=features, known_as_of_us=known_as_of_us)
    if manifest is not None:
        query.delta_version_by_stream.update(manifest.delta_version_by_stream)
        query.definitions_digest = manifest.definitions_digest
        if known_as_of_us is None and manifest.HasField("known_as_of_us"):
            query.known_as_of_us = manifest.known_as_of_us
    return query

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
from headrace.pieces import PieceFile, pieces_of
from headrace.rpc import error_of

if TYPE_CHECKING:
    import pyarrow as pa

TIMEOUT_S = 300.0


class HistoricalFeatures:
    """Iterate once for the record batches; `manifest` is there when they have been read.

    A batch has the columns that were sent and a float32 column for each feature, NaN where absent.
    """

    def __init__(self, responses: Iterator[wire.GetHistoricalFeaturesResponse]) -> None:
        self._responses, self._sha256 = responses, hashlib.sha256()
        self._manifest: wire.HistoricalManifest | None = None
        self._file = PieceFile(self._pieces())

    @property
    def manifest(self) -> wire.HistoricalManifest:
        if self._manifest is None:
            raise Invalid("BAD_REQUEST", field="manifest", problem="comes behind the last batch")
        return self._manifest

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Raises the error of the service, Corrupt DIGEST_MISMATCH, Unavailable when cut short."""
        import pyarrow as pa

        with pa.ipc.open_stream(pa.PythonFile(self._file, "r")) as reader:
            yield from reader
        self._finish()

    def to_table(self) -> pa.Table:
        """All of it in memory."""
        import pyarrow as pa

        with pa.ipc.open_stream(pa.PythonFile(self._file, "r")) as reader:
            table = reader.read_all()
        self._finish()
        return table

    def _pieces(self) -> Iterator[bytes]:
        try:
            for response in self._responses:
                if response.HasField("manifest"):
                    self._manifest = response.manifest
                else:
                    self._sha256.update(response.arrow_ipc)
                    yield response.arrow_ipc
        except grpc.RpcError as err:
            raise error_of(err) from err

    def _finish(self) -> None:
        self._file.drain()
        if self._manifest is None:
            raise Unavailable("SERVICE_UNAVAILABLE", service="feature", problem="stream cut short")
        if self._sha256.hexdigest() != self._manifest.digest:
            raise Corrupt("DIGEST_MISMATCH", artifact="historical features")


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
    for piece in _written(batches, schema):
        yield wire.GetHistoricalFeaturesRequest(arrow_ipc=piece)


def _written(batches: Iterable[pa.RecordBatch], schema: Any) -> Iterator[bytes]:
    import pyarrow as pa

    sink, writer = io.BytesIO(), None
    for batch in batches:
        writer = writer or pa.ipc.new_stream(sink, schema or batch.schema)
        writer.write_batch(batch)
        yield from pieces_of(sink)
    if writer is None and schema is not None:
        writer = pa.ipc.new_stream(sink, schema)
    if writer is not None:
        writer.close()
    yield from pieces_of(sink)


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

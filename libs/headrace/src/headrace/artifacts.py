# SPDX-License-Identifier: Apache-2.0
"""Artifacts to and from the registry by their sha256, over links that may be cut.

Each direction goes on where it was: an upload behind what the registry has kept, a download behind
what has come. Tries in a row that bring nothing further are few and ever later. Both ends verify
the whole.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from typing import Any

import grpc

from headrace.errors import Corrupt, HeadraceError, Unavailable
from headrace.registry.v1 import registry_service_pb2 as pb
from headrace.rpc import call, error_of

CALL_S = 5.0
TRANSFER_S = 60.0
CHUNK_BYTES = 256 * 1024
# Without a byte further, in a row; together they wait 32 s.
TRIES_MAX = 12
WAIT_S_MIN, WAIT_S_MAX = 0.1, 5.0
# The rest has to be sent from elsewhere, or the registry has no place just now.
PASSING = ("UPLOAD_MOVED", "QUEUE_FULL")


def upload(service: Any, data: bytes, *, format: str = "onnx") -> str:
    """Stores the bytes and answers their digest; `service` is a stub of ArtifactService.

    Raises Invalid PICKLE, FORMAT, EXTERNAL_DATA, OPSET or VALIDATION_LIMIT, Busy ARTIFACT_TOO_LARGE
    or QUEUE_FULL, Corrupt DIGEST_MISMATCH, Unavailable.
    """
    digest = hashlib.sha256(data).hexdigest()
    metadata = pb.ArtifactMetadata(digest=digest, size_bytes=len(data), format=format)
    tries, offset = _Tries(), 0
    while True:
        try:
            begin = pb.BeginUploadRequest(metadata=metadata)
            begun = call(service.BeginUpload, begin, timeout_s=CALL_S)
            if begun.stored:
                return digest
            tries.reached(begun.offset_bytes)
            offset = begun.offset_bytes
            service.UploadArtifact(_parts(metadata, data, offset), timeout=TRANSFER_S)
        except (grpc.RpcError, HeadraceError) as err:
            error = err if isinstance(err, HeadraceError) else error_of(err)
            tries.wait(error, resumed=offset > 0)
        else:
            return digest


def download(service: Any, digest: str) -> bytes:
    """Raises NotFound ARTIFACT_UNKNOWN, Corrupt DIGEST_MISMATCH, Unavailable."""
    data = b"".join(download_chunks(service, digest))
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise Corrupt("DIGEST_MISMATCH", digest=digest, found=found)
    return data


def download_chunks(service: Any, digest: str, *, tries_max: int = TRIES_MAX) -> Iterator[bytes]:
    """The bytes as they come; whoever puts them together verifies their digest."""
    tries, offset = _Tries(tries_max), 0
    while True:
        request = pb.DownloadArtifactRequest(digest=digest, offset_bytes=offset)
        try:
            for part in service.DownloadArtifact(request, timeout=TRANSFER_S):
                offset += len(part.chunk)
                yield part.chunk
        except grpc.RpcError as err:
            tries.reached(offset)
            tries.wait(error_of(err))
        else:
            return


def _parts(
    metadata: pb.ArtifactMetadata, data: bytes, offset: int
) -> Iterator[pb.UploadArtifactRequest]:
    yield pb.UploadArtifactRequest(metadata=metadata, offset_bytes=offset)
    for start in range(offset, len(data), CHUNK_BYTES):
        yield pb.UploadArtifactRequest(chunk=data[start : start + CHUNK_BYTES])


class _Tries:
    """Counts the tries in a row that brought nothing further."""

    def __init__(self, count_max: int = TRIES_MAX) -> None:
        self._count, self._count_max, self._reached = 0, count_max, 0

    def reached(self, offset: int) -> None:
        if offset > self._reached:
            self._count, self._reached = 0, offset

    def wait(self, error: HeadraceError, *, resumed: bool = False) -> None:
        """Waits for the next try; raises the error when there is none.

        Bytes that were `resumed` and are wrong may be another's: the registry has forgotten them.
        """
        spoilt = resumed and isinstance(error, Corrupt)
        passing = isinstance(error, Unavailable) or error.reason in PASSING
        if self._count == self._count_max or not (passing or spoilt):
            raise error
        time.sleep(min(WAIT_S_MIN * 2**self._count, WAIT_S_MAX))
        self._count += 1

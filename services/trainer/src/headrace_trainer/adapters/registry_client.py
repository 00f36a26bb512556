# SPDX-License-Identifier: Apache-2.0
"""ModelRegistryClient over the registry's gRPC: the champion, and artifacts by their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import grpc

from headrace.errors import Corrupt, NotFound
from headrace.registry.v1 import registry_events_pb2 as events
from headrace.registry.v1 import registry_service_pb2 as registry
from headrace.registry.v1 import registry_service_pb2_grpc as registry_grpc
from headrace.rpc import call, error_of, pages
from headrace_trainer.ports import Champion

CHAMPION = "champion"
CHUNK_BYTES = 1 << 20
CALL_TIMEOUT_S = 5.0
TRANSFER_TIMEOUT_S = 60.0


class GrpcModelRegistryClient:
    """Reads and writes models in the registry."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._registry = registry_grpc.RegistryServiceStub(channel)
        self._artifacts = registry_grpc.ArtifactServiceStub(channel)

    def champion(self, model: str) -> Champion | None:
        alias = self._alias(model)
        if alias is None:
            return None
        request = registry.ListVersionsRequest(model=model)
        found = pages(self._registry.ListVersions, request, timeout_s=CALL_TIMEOUT_S, retries_max=2)
        for page in found:
            for each in page.versions:
                if each.version == alias.version:
                    return Champion(each.version, each.digest, tuple(each.trained.features))
        raise NotFound("VERSION_UNKNOWN", model=model, version=alias.version)

    def download(self, digest: str) -> bytes:
        request = registry.DownloadArtifactRequest(digest=digest)
        try:
            stream = self._artifacts.DownloadArtifact(request, timeout=TRANSFER_TIMEOUT_S)
            onnx = b"".join(part.chunk for part in stream)
        except grpc.RpcError as err:
            raise error_of(err) from err
        if hashlib.sha256(onnx).hexdigest() != digest:
            raise Corrupt("DIGEST_MISMATCH", digest=digest)
        return onnx

    def upload(self, onnx: bytes) -> str:
        digest = hashlib.sha256(onnx).hexdigest()
        try:
            self._artifacts.UploadArtifact(_parts(onnx, digest), timeout=TRANSFER_TIMEOUT_S)
        except grpc.RpcError as err:
            raise error_of(err) from err
        return digest

    def _alias(self, model: str) -> events.Alias | None:
        request = registry.ListAliasesRequest(model=model)
        answer = call(self._registry.ListAliases, request, timeout_s=CALL_TIMEOUT_S, retries_max=2)
        return next((each for each in answer.aliases if each.alias == CHAMPION), None)


def _parts(onnx: bytes, digest: str) -> Iterator[registry.UploadArtifactRequest]:
    metadata = registry.ArtifactMetadata(digest=digest, size_bytes=len(onnx), format="onnx")
    yield registry.UploadArtifactRequest(metadata=metadata)
    for start in range(0, len(onnx), CHUNK_BYTES):
        yield registry.UploadArtifactRequest(chunk=onnx[start : start + CHUNK_BYTES])

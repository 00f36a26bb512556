# SPDX-License-Identifier: Apache-2.0
"""The registry's two gRPC services: convert, call the handler, convert back."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc

from headrace.errors import Busy, Invalid
from headrace.registry.v1 import registry_service_pb2 as pb
from headrace.registry.v1 import registry_service_pb2_grpc as pb_grpc
from headrace_kit.clock import Clock
from headrace_registry import handlers
from headrace_registry.adapters import conversions
from headrace_registry.domain.artifact import ArtifactMetadata, check_metadata
from headrace_registry.ports import ArtifactStore, RegistryStore

CHUNK_BYTES = 256 * 1024
# Each holds its artifact in memory, so that no more than this times the cap is ever held.
TRANSFERS_MAX = 4


class RegistryApi(pb_grpc.RegistryServiceServicer):
    """headrace.registry.v1.RegistryService."""

    def __init__(self, *, store: RegistryStore, clock: Clock) -> None:
        self._store, self._clock = store, clock

    def ApplyDefinitions(
        self, request: pb.ApplyDefinitionsRequest, context: grpc.ServicerContext
    ) -> pb.ApplyDefinitionsResponse:
        command = conversions.apply_definitions(request)
        applied = handlers.apply_definitions(command, store=self._store, clock=self._clock)
        protos = [conversions.definition_proto(each) for each in applied.definitions]
        return pb.ApplyDefinitionsResponse(definitions=protos)

    def ListDefinitions(
        self, request: pb.ListDefinitionsRequest, context: grpc.ServicerContext
    ) -> pb.ListDefinitionsResponse:
        found = handlers.list_definitions(store=self._store)
        protos = [conversions.definition_proto(each) for each in found]
        return pb.ListDefinitionsResponse(definitions=protos)

    def ListVersions(
        self, request: pb.ListVersionsRequest, context: grpc.ServicerContext
    ) -> pb.ListVersionsResponse:
        page = handlers.list_versions(conversions.list_versions(request), store=self._store)
        protos = [conversions.version_proto(each) for each in page.versions]
        return pb.ListVersionsResponse(versions=protos, next_page_token=page.next_page_token)

    def SetAlias(
        self, request: pb.SetAliasRequest, context: grpc.ServicerContext
    ) -> pb.SetAliasResponse:
        command = conversions.set_alias(request)
        moved = handlers.set_alias(command, store=self._store, clock=self._clock)
        return pb.SetAliasResponse(alias=conversions.alias_proto(moved))

    def ListAliases(
        self, request: pb.ListAliasesRequest, context: grpc.ServicerContext
    ) -> pb.ListAliasesResponse:
        found = handlers.list_aliases(request.model, store=self._store)
        return pb.ListAliasesResponse(aliases=[conversions.alias_proto(each) for each in found])

    def ListRollouts(
        self, request: pb.ListRolloutsRequest, context: grpc.ServicerContext
    ) -> pb.ListRolloutsResponse:
        found = handlers.list_rollouts(store=self._store)
        return pb.ListRolloutsResponse(rollouts=[conversions.rollout_proto(r) for r in found])


class ArtifactApi(pb_grpc.ArtifactServiceServicer):
    """headrace.registry.v1.ArtifactService."""

    def __init__(self, *, artifacts: ArtifactStore, bytes_max: int) -> None:
        self._artifacts, self._bytes_max = artifacts, bytes_max
        self._transfers = threading.BoundedSemaphore(TRANSFERS_MAX)

    def UploadArtifact(
        self, request_iterator: Iterator[pb.UploadArtifactRequest], context: grpc.ServicerContext
    ) -> pb.UploadArtifactResponse:
        metadata = self._metadata(request_iterator)  # a caller that waits takes no transfer
        with _Transfer(self._transfers):
            data = _bytes(request_iterator, metadata.size_bytes)
            digest = handlers.upload_artifact(metadata, data, artifacts=self._artifacts)
            return pb.UploadArtifactResponse(digest=digest)

    def DownloadArtifact(
        self, request: pb.DownloadArtifactRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.DownloadArtifactResponse]:
        with _Transfer(self._transfers):
            data = handlers.download_artifact(request.digest, artifacts=self._artifacts)
            for start in range(0, len(data), CHUNK_BYTES):
                yield pb.DownloadArtifactResponse(chunk=data[start : start + CHUNK_BYTES])

    def _metadata(self, parts: Iterator[pb.UploadArtifactRequest]) -> ArtifactMetadata:
        first = next(parts, None)
        if first is None or first.WhichOneof("part") != "metadata":
            raise Invalid("BAD_REQUEST", field="metadata", problem="must come first")
        metadata = conversions.artifact_metadata(first.metadata)
        check_metadata(metadata, bytes_max=self._bytes_max)
        return metadata


class _Transfer:
    """One of the few transfers at a time; Busy QUEUE_FULL when all are taken."""

    def __init__(self, transfers: threading.BoundedSemaphore) -> None:
        self._transfers = transfers

    def __enter__(self) -> None:
        if not self._transfers.acquire(blocking=False):
            raise Busy("QUEUE_FULL", transfers_max=TRANSFERS_MAX)

    def __exit__(self, *_: object) -> None:
        self._transfers.release()


def _bytes(parts: Iterator[pb.UploadArtifactRequest], size_bytes: int) -> bytes:
    """The chunks joined; Invalid BAD_REQUEST unless they are as many bytes as announced."""
    data = bytearray()
    for part in parts:
        if part.WhichOneof("part") != "chunk":
            raise Invalid("BAD_REQUEST", field="chunk", problem="must follow the metadata")
        data += part.chunk
        if len(data) > size_bytes:
            break
    if len(data) != size_bytes:
        raise Invalid("BAD_REQUEST", field="size_bytes", problem="differs from the bytes sent")
    return bytes(data)

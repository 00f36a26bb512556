# SPDX-License-Identifier: Apache-2.0
"""The registry's two gRPC services: convert, call the handler, convert back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import grpc

from headrace.errors import Busy, Invalid, Unavailable
from headrace.registry.v1 import registry_service_pb2 as pb
from headrace.registry.v1 import registry_service_pb2_grpc as pb_grpc
from headrace_kit.auth import calling
from headrace_kit.clock import Clock
from headrace_registry.adapters import conversions
from headrace_registry.adapters.transfer_places import TransferPlaces
from headrace_registry.domain.artifact import ArtifactMetadata, check_metadata
from headrace_registry.domain.page import (
    DEFINITIONS,
    MODELS,
    RETRACTED,
    ROLLOUTS,
    ListByName,
    aliases_of,
)
from headrace_registry.handlers.aliases import set_alias
from headrace_registry.handlers.artifacts import downloaded
from headrace_registry.handlers.definitions import apply_definitions, retract_definition
from headrace_registry.handlers.lineage import get_lineage
from headrace_registry.handlers.queries import (
    list_alias_moves,
    list_aliases,
    list_changes,
    list_definitions,
    list_models,
    list_retracted,
    list_rollouts,
    list_versions,
    resolve_model,
)
from headrace_registry.handlers.rollouts import set_rollout
from headrace_registry.handlers.signings import sign_version
from headrace_registry.handlers.uploads import Upload, begin_upload
from headrace_registry.handlers.versions import (
    approve_version,
    describe_version,
    register_version,
    retract_version,
)
from headrace_registry.ports import (
    Acceptor,
    ArtifactStore,
    RegistryStore,
    SignatureVerifier,
    Spool,
)

CHUNK_BYTES = 256 * 1024
# Each holds its artifact on disk, so that no more than this times the cap is ever held. Those who
# read keep nobody from sending.
UPLOADS_MAX, DOWNLOADS_MAX = 4, 4
ACCEPTANCES_MAX = 2
# Each reads its whole artifact, for minutes from a slow store.
REGISTRATIONS_MAX = 8
# Of gRPC: four answer everybody else while all these places are taken.
WORKERS = 20


class RegistryApi(pb_grpc.RegistryServiceServicer):
    """headrace.registry.v1.RegistryService."""

    def __init__(
        self,
        *,
        store: RegistryStore,
        artifacts: ArtifactStore,
        acceptor: Acceptor,
        spool: Spool,
        verifier: SignatureVerifier,
        clock: Clock,
    ) -> None:
        self._store, self._artifacts, self._clock = store, artifacts, clock
        self._acceptor, self._spool, self._verifier = acceptor, spool, verifier
        self._registrations = threading.BoundedSemaphore(REGISTRATIONS_MAX)
        self._acceptances = threading.BoundedSemaphore(ACCEPTANCES_MAX)

    @contextmanager
    def _accepting(self) -> Iterator[IO[bytes]]:
        """A file for what was not looked through yet; Busy QUEUE_FULL beyond a few."""
        with _Place(self._acceptances), self._spool() as file:
            yield file

    def ApplyDefinitions(
        self, request: pb.ApplyDefinitionsRequest, context: grpc.ServicerContext
    ) -> pb.ApplyDefinitionsResponse:
        command = conversions.apply_definitions(request)
        applied = apply_definitions(
            command, caller=calling().name, store=self._store, clock=self._clock
        )
        protos = [conversions.definition_proto(each) for each in applied.definitions]
        return pb.ApplyDefinitionsResponse(definitions=protos)

    def RetractDefinition(
        self, request: pb.RetractDefinitionRequest, context: grpc.ServicerContext
    ) -> pb.RetractDefinitionResponse:
        command = conversions.retract_definition(request)
        retracted = retract_definition(
            command, caller=calling().name, store=self._store, clock=self._clock
        )
        return pb.RetractDefinitionResponse(definition=conversions.definition_proto(retracted))

    def ListDefinitions(
        self, request: pb.ListDefinitionsRequest, context: grpc.ServicerContext
    ) -> pb.ListDefinitionsResponse:
        of_list = RETRACTED if request.retracted else DEFINITIONS
        query = ListByName(of_list, request.page_size, request.page_token)
        ask = list_retracted if request.retracted else list_definitions
        page, token = ask(query, store=self._store)
        protos = [conversions.definition_proto(each) for each in page]
        return pb.ListDefinitionsResponse(definitions=protos, next_page_token=token)

    def RegisterVersion(
        self, request: pb.RegisterVersionRequest, context: grpc.ServicerContext
    ) -> pb.RegisterVersionResponse:
        with _Place(self._registrations):
            version = register_version(
                conversions.register_version(request),
                caller=calling().name,
                store=self._store,
                artifacts=self._artifacts,
                acceptor=self._acceptor,
                spool=self._accepting,
                clock=self._clock,
            )
        return pb.RegisterVersionResponse(version=conversions.version_proto(version))

    def ApproveVersion(
        self, request: pb.ApproveVersionRequest, context: grpc.ServicerContext
    ) -> pb.ApproveVersionResponse:
        command = conversions.approve_version(request)
        version = approve_version(
            command, caller=calling().name, store=self._store, clock=self._clock
        )
        return pb.ApproveVersionResponse(version=conversions.version_proto(version))

    def RetractVersion(
        self, request: pb.RetractVersionRequest, context: grpc.ServicerContext
    ) -> pb.RetractVersionResponse:
        command = conversions.retract_version(request)
        version = retract_version(
            command, caller=calling().name, store=self._store, clock=self._clock
        )
        return pb.RetractVersionResponse(version=conversions.version_proto(version))

    def SignVersion(
        self, request: pb.SignVersionRequest, context: grpc.ServicerContext
    ) -> pb.SignVersionResponse:
        version = sign_version(
            conversions.sign_version(request),
            caller=calling().name,
            store=self._store,
            artifacts=self._artifacts,
            verifier=self._verifier,
            clock=self._clock,
        )
        return pb.SignVersionResponse(version=conversions.version_proto(version))

    def DescribeVersion(
        self, request: pb.DescribeVersionRequest, context: grpc.ServicerContext
    ) -> pb.DescribeVersionResponse:
        command = conversions.describe_version(request)
        version = describe_version(
            command, caller=calling().name, store=self._store, clock=self._clock
        )
        return pb.DescribeVersionResponse(version=conversions.version_proto(version))

    def ResolveModel(
        self, request: pb.ResolveModelRequest, context: grpc.ServicerContext
    ) -> pb.ResolveModelResponse:
        version, alias = resolve_model(request.reference, store=self._store)
        return pb.ResolveModelResponse(
            version=conversions.version_proto(version),
            alias=None if alias is None else conversions.alias_proto(alias),
        )

    def ListModels(
        self, request: pb.ListModelsRequest, context: grpc.ServicerContext
    ) -> pb.ListModelsResponse:
        page = list_models(
            ListByName(MODELS, request.page_size, request.page_token), store=self._store
        )
        protos = [conversions.model_proto(each) for each in page.models]
        return pb.ListModelsResponse(models=protos, next_page_token=page.next_page_token)

    def ListVersions(
        self, request: pb.ListVersionsRequest, context: grpc.ServicerContext
    ) -> pb.ListVersionsResponse:
        page = list_versions(conversions.list_versions(request), store=self._store)
        protos = [conversions.version_proto(each) for each in page.versions]
        for proto in protos:
            proto.ClearField("card")
        return pb.ListVersionsResponse(versions=protos, next_page_token=page.next_page_token)

    def SetAlias(
        self, request: pb.SetAliasRequest, context: grpc.ServicerContext
    ) -> pb.SetAliasResponse:
        command = conversions.set_alias(request)
        moved = set_alias(command, caller=calling().name, store=self._store, clock=self._clock)
        return pb.SetAliasResponse(alias=conversions.alias_proto(moved))

    def ListChanges(
        self, request: pb.ListChangesRequest, context: grpc.ServicerContext
    ) -> pb.ListChangesResponse:
        page = list_changes(conversions.list_changes(request), store=self._store)
        protos = [conversions.change_proto(each) for each in page.changes]
        return pb.ListChangesResponse(changes=protos, next_page_token=page.next_page_token)

    def GetLineage(
        self, request: pb.GetLineageRequest, context: grpc.ServicerContext
    ) -> pb.GetLineageResponse:
        page, token = get_lineage(conversions.get_lineage(request), store=self._store)
        protos = [conversions.lineage_proto(each) for each in page]
        return pb.GetLineageResponse(versions=protos, next_page_token=token)

    def ListAliasMoves(
        self, request: pb.ListAliasMovesRequest, context: grpc.ServicerContext
    ) -> pb.ListAliasMovesResponse:
        page = list_alias_moves(conversions.list_alias_moves(request), store=self._store)
        protos = [conversions.alias_proto(each) for each in page.moves]
        return pb.ListAliasMovesResponse(moves=protos, next_page_token=page.next_page_token)

    def ListAliases(
        self, request: pb.ListAliasesRequest, context: grpc.ServicerContext
    ) -> pb.ListAliasesResponse:
        query = ListByName(aliases_of(request.model), request.page_size, request.page_token)
        page, token = list_aliases(request.model, query, store=self._store)
        protos = [conversions.alias_proto(each) for each in page]
        return pb.ListAliasesResponse(aliases=protos, next_page_token=token)

    def SetRollout(
        self, request: pb.SetRolloutRequest, context: grpc.ServicerContext
    ) -> pb.SetRolloutResponse:
        command = conversions.set_rollout(request)
        after = set_rollout(command, caller=calling().name, store=self._store, clock=self._clock)
        return pb.SetRolloutResponse(rollout=conversions.rollout_proto(after))

    def ListRollouts(
        self, request: pb.ListRolloutsRequest, context: grpc.ServicerContext
    ) -> pb.ListRolloutsResponse:
        query = ListByName(ROLLOUTS, request.page_size, request.page_token)
        page, token = list_rollouts(query, store=self._store)
        protos = [conversions.rollout_proto(each) for each in page]
        return pb.ListRolloutsResponse(rollouts=protos, next_page_token=token)


class ArtifactApi(pb_grpc.ArtifactServiceServicer):
    """headrace.registry.v1.ArtifactService."""

    def __init__(
        self,
        *,
        store: RegistryStore,
        artifacts: ArtifactStore,
        acceptor: Acceptor,
        spool: Spool,
        clock: Clock,
        bytes_max: int,
    ) -> None:
        self._store, self._artifacts, self._acceptor = store, artifacts, acceptor
        self._spool, self._clock, self._bytes_max = spool, clock, bytes_max
        self._uploads = TransferPlaces("uploads", UPLOADS_MAX)
        self._downloads = TransferPlaces("downloads", DOWNLOADS_MAX)

    def BeginUpload(
        self, request: pb.BeginUploadRequest, context: grpc.ServicerContext
    ) -> pb.BeginUploadResponse:
        begun = begin_upload(self._metadata(request.metadata), artifacts=self._artifacts)
        return pb.BeginUploadResponse(stored=begun.stored, offset_bytes=begun.offset_bytes)

    def UploadArtifact(
        self, request_iterator: Iterator[pb.UploadArtifactRequest], context: grpc.ServicerContext
    ) -> pb.UploadArtifactResponse:
        first = _first(request_iterator)  # a caller that waits takes no transfer
        metadata = self._metadata(first.metadata)
        with self._uploads.place(context) as transfer, self._spool() as file:
            upload = Upload(
                metadata,
                first.offset_bytes,
                file=file,
                artifacts=self._artifacts,
                clock=self._clock,
            )
            try:
                for part in transfer.taken(request_iterator):
                    upload.add(_chunk(part))
                digest = upload.finish(store=self._store, acceptor=self._acceptor)
            except (Busy, Unavailable):  # cut, not wrong
                upload.keep()
                raise
            return pb.UploadArtifactResponse(digest=digest)

    def DownloadArtifact(
        self, request: pb.DownloadArtifactRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.DownloadArtifactResponse]:
        wanted = downloaded(
            request.digest,
            artifacts=self._artifacts,
            spool=self._spool,
            offset_bytes=request.offset_bytes,
        )
        with self._downloads.place(context) as transfer, wanted as file:
            while chunk := file.read(CHUNK_BYTES):
                with transfer.caller_waited_for():
                    yield pb.DownloadArtifactResponse(chunk=chunk)

    def _metadata(self, proto: pb.ArtifactMetadata) -> ArtifactMetadata:
        metadata = conversions.artifact_metadata(proto)
        check_metadata(metadata, bytes_max=self._bytes_max)
        return metadata


class _Place:
    """One of the few that hold or read bytes at a time; Busy QUEUE_FULL when all are taken."""

    def __init__(self, places: threading.BoundedSemaphore) -> None:
        self._places = places

    def __enter__(self) -> None:
        if not self._places.acquire(blocking=False):
            raise Busy("QUEUE_FULL")

    def __exit__(self, *_: object) -> None:
        self._places.release()


def _first(parts: Iterator[pb.UploadArtifactRequest]) -> pb.UploadArtifactRequest:
    first = next(parts, None)
    if first is None or first.WhichOneof("part") != "metadata":
        raise Invalid("BAD_REQUEST", field="metadata", problem="must come first")
    if first.offset_bytes < 0:
        raise Invalid("BAD_REQUEST", field="offset_bytes", problem="must not be negative")
    return first


def _chunk(part: pb.UploadArtifactRequest) -> bytes:
    if part.WhichOneof("part") != "chunk":
        raise Invalid("BAD_REQUEST", field="chunk", problem="must follow the metadata")
    return bytes(part.chunk)

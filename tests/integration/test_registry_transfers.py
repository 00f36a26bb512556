# SPDX-License-Identifier: Apache-2.0
"""Over gRPC: a caller that takes or sends nothing gives its place to one who finds none."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256

import grpc
import pytest

from headrace.artifacts import download, upload
from headrace.registry.v1 import registry_service_pb2 as pb
from headrace.registry.v1 import registry_service_pb2_grpc as pb_grpc
from headrace_kit.auth import Guard
from headrace_kit.grpc_server import GrpcServer
from headrace_kit.objects import MemoryObjectStore
from headrace_kit.testing import FixedClock, wait_until
from headrace_registry.adapters import transfer_places
from headrace_registry.adapters.grpc_api import DOWNLOADS_MAX, UPLOADS_MAX, ArtifactApi
from headrace_registry.adapters.memory_store import MemoryRegistryStore
from headrace_registry.domain.artifact import artifact_key
from headrace_registry.domain.upload import PART_BYTES_MIN
from headrace_registry.testing import DIGEST as SMALL
from headrace_registry.testing import ONNX, ReadingAcceptor, a_file

pytestmark = pytest.mark.integration

# More than a connection takes unasked.
DATA = bytes(32 << 20)
DIGEST = sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were it not for what is tested, who stands still would hold its place for a minute."""
    monkeypatch.setattr(transfer_places, "STILL_S_MAX", 0.5)


@pytest.fixture
def stub() -> Iterator[pb_grpc.ArtifactServiceStub]:
    artifacts = MemoryObjectStore()
    artifacts.put_if_absent(artifact_key(DIGEST), DATA)
    api = ArtifactApi(
        store=MemoryRegistryStore(),
        artifacts=artifacts,
        acceptor=ReadingAcceptor(),
        spool=a_file,
        clock=FixedClock(0),
        bytes_max=len(DATA),
    )
    server = GrpcServer(
        host="127.0.0.1",
        port=0,
        services=[(pb_grpc.add_ArtifactServiceServicer_to_server, api)],
        names=["headrace.registry.v1.ArtifactService"],
        guard=Guard("registry", None),
    )
    with grpc.insecure_channel(f"127.0.0.1:{server.start()}") as channel:
        yield pb_grpc.ArtifactServiceStub(channel)
    server.stop(1.0)


def ending(download: grpc.Call) -> grpc.StatusCode:
    """How it ends for a caller that takes what is left."""
    with suppress(grpc.RpcError):
        deque(download, maxlen=0)
    return download.code()


def test_download_that_nobody_takes_gives_way_to_one_that_is_taken(stub):
    request = pb.DownloadArtifactRequest(digest=DIGEST)
    untaken = [stub.DownloadArtifact(request, timeout=300.0) for _ in range(DOWNLOADS_MAX)]
    for each in untaken:
        assert next(each).chunk

    # It asks again while there is no place, for half a minute.
    assert DATA == download(stub, DIGEST)

    # One, or one more where the first was slow to go.
    assert 0 < [ending(each) for each in untaken].count(grpc.StatusCode.CANCELLED) < DOWNLOADS_MAX


def test_upload_that_is_not_sent_gives_way_and_goes_on_where_it_was(stub):
    begun, ended = threading.Semaphore(0), threading.Event()
    wanted = [
        pb.ArtifactMetadata(digest=f"{number:064x}", size_bytes=len(DATA), format="onnx")
        for number in range(UPLOADS_MAX)
    ]

    def sent(metadata: pb.ArtifactMetadata) -> Iterator[pb.UploadArtifactRequest]:
        yield pb.UploadArtifactRequest(metadata=metadata)
        yield pb.UploadArtifactRequest(chunk=b"x" * PART_BYTES_MIN)
        begun.release()
        ended.wait(300.0)

    def kept() -> list[int]:
        """How much is kept of each, of those of which anything is."""
        asked = (pb.BeginUploadRequest(metadata=each) for each in wanted)
        return [size for each in asked if (size := stub.BeginUpload(each).offset_bytes)]

    unsent = [stub.UploadArtifact.future(sent(each), timeout=300.0) for each in wanted]
    try:
        for _ in unsent:
            assert begun.acquire(timeout=60.0)
        assert SMALL == upload(stub, ONNX)
        # One, or more where the first was slow to go, but for the last.
        given_way = wait_until(kept)
        assert {PART_BYTES_MIN} == set(given_way)
        assert len(given_way) < UPLOADS_MAX
    finally:
        ended.set()
    assert grpc.StatusCode.CANCELLED in [each.code() for each in unsent]

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from hashlib import sha256

import pytest

from headrace.errors import Busy, Corrupt, HeadraceError, Invalid, NotFound
from headrace.registry.v1 import registry_service_pb2 as pb
from headrace_kit.objects import MemoryObjectStore
from headrace_registry import handlers
from headrace_registry.adapters.grpc_api import TRANSFERS_MAX, ArtifactApi
from headrace_registry.domain.artifact import ArtifactMetadata, artifact_key, check_metadata
from headrace_registry.testing import an_onnx_file


def upload(data: bytes, *, artifacts: MemoryObjectStore, digest: str = "") -> str:
    metadata = ArtifactMetadata(digest or sha256(data).hexdigest(), len(data), "onnx")
    check_metadata(metadata, bytes_max=1 << 20)
    return handlers.upload_artifact(metadata, data, artifacts=artifacts)


def zipped(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, b"content")
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.onnx"))
    return file.getvalue()


def test_uploaded_artifact_comes_back_by_its_digest() -> None:
    artifacts, data = MemoryObjectStore(), an_onnx_file()

    digest = upload(data, artifacts=artifacts)

    assert sha256(data).hexdigest() == digest
    assert data == handlers.download_artifact(digest, artifacts=artifacts)


def test_second_upload_of_the_same_bytes_is_answered_the_same() -> None:
    artifacts, data = MemoryObjectStore(), an_onnx_file()

    assert upload(data, artifacts=artifacts) == upload(data, artifacts=artifacts)
    assert [f"sha256/{sha256(data).hexdigest()}"] == artifacts.keys()


def test_bytes_that_do_not_hash_to_their_digest_are_not_stored() -> None:
    artifacts = MemoryObjectStore()

    with pytest.raises(Corrupt, match="DIGEST_MISMATCH"):
        upload(an_onnx_file(), artifacts=artifacts, digest="0" * 64)
    assert [] == artifacts.keys()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        *((pickle.dumps({"a": [1]}, protocol=p), "PICKLE") for p in range(2, 6)),
        (pickle.dumps({"a": 1}, protocol=0), "PICKLE"),
        (pickle.dumps([1, 2], protocol=0), "PICKLE"),
        (b"cos\nsystem\n(S'true'\ntR.", "PICKLE"),
        (zipped("archive/data.pkl"), "PICKLE"),
        (zipped("model.onnx"), "FORMAT"),
        (tarred(), "FORMAT"),
        (b"\x93NUMPY\x01\x00v\x00{}", "FORMAT"),
        (b"{}", "FORMAT"),
        (b"\x7fELF", "FORMAT"),
    ],
)
def test_what_is_not_onnx_is_refused_and_not_stored(data: bytes, reason: str) -> None:
    artifacts = MemoryObjectStore()

    with pytest.raises(Invalid) as refused:
        upload(data, artifacts=artifacts)

    assert reason == refused.value.reason
    assert [] == artifacts.keys()


@pytest.mark.parametrize(
    ("metadata", "error", "reason"),
    [
        (ArtifactMetadata("ABC", 1, "onnx"), Invalid, "BAD_REQUEST"),
        (ArtifactMetadata("../" + "a" * 61, 1, "onnx"), Invalid, "BAD_REQUEST"),
        (ArtifactMetadata("A" * 64, 1, "onnx"), Invalid, "BAD_REQUEST"),
        (ArtifactMetadata("a" * 64 + "\n", 1, "onnx"), Invalid, "BAD_REQUEST"),
        (ArtifactMetadata("a" * 64, 1, "pickle"), Invalid, "FORMAT"),
        (ArtifactMetadata("a" * 64, 0, "onnx"), Invalid, "BAD_REQUEST"),
        (ArtifactMetadata("a" * 64, -1, "onnx"), Invalid, "BAD_REQUEST"),
        (ArtifactMetadata("a" * 64, 1025, "onnx"), Busy, "ARTIFACT_TOO_LARGE"),
    ],
)
def test_metadata_is_refused_before_any_byte_is_read(
    metadata: ArtifactMetadata, error: type[HeadraceError], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        check_metadata(metadata, bytes_max=1024)


def test_unknown_digest_is_not_found() -> None:
    with pytest.raises(NotFound, match="ARTIFACT_UNKNOWN"):
        handlers.download_artifact("a" * 64, artifacts=MemoryObjectStore())


def test_bytes_changed_in_the_store_are_not_handed_out() -> None:
    artifacts = MemoryObjectStore()
    artifacts.put_if_absent(artifact_key("a" * 64), b"tampered")

    with pytest.raises(Corrupt, match="DIGEST_MISMATCH"):
        handlers.download_artifact("a" * 64, artifacts=artifacts)


def test_callers_that_have_not_sent_their_metadata_take_no_transfer() -> None:
    api, data = ArtifactApi(artifacts=MemoryObjectStore(), bytes_max=1 << 20), an_onnx_file()
    metadata = pb.ArtifactMetadata(
        digest=sha256(data).hexdigest(), size_bytes=len(data), format="onnx"
    )
    digests = []

    def parts(waiting: int):
        if waiting:  # the next caller is served while this one still waits
            digests.append(api.UploadArtifact(parts(waiting - 1), None).digest)
        yield pb.UploadArtifactRequest(metadata=metadata)
        yield pb.UploadArtifactRequest(chunk=data)

    api.UploadArtifact(parts(TRANSFERS_MAX), None)

    assert [metadata.digest] * TRANSFERS_MAX == digests

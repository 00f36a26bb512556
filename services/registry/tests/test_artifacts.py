# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from hashlib import sha256

import pytest

from headrace.errors import Busy, Corrupt, HeadraceError, Invalid, NotFound
from headrace.registry.v1 import registry_service_pb2 as pb
from headrace_kit.objects import MemoryObjectStore
from headrace_kit.testing import FixedClock
from headrace_registry.adapters.grpc_api import UPLOADS_MAX, ArtifactApi
from headrace_registry.adapters.memory_store import MemoryRegistryStore
from headrace_registry.domain.artifact import (
    PIECE_BYTES,
    ArtifactMetadata,
    artifact_key,
    check_metadata,
)
from headrace_registry.handlers.artifacts import downloaded, upload_artifact
from headrace_registry.testing import ReadingAcceptor, a_file, an_onnx_file


def upload(
    data: bytes, *, artifacts: MemoryObjectStore, digest: str = "", kind: str = "onnx"
) -> str:
    metadata = ArtifactMetadata(digest or sha256(data).hexdigest(), len(data), kind)
    check_metadata(metadata, bytes_max=2 << 20)
    with a_file(data) as file:
        return upload_artifact(
            metadata,
            file,
            store=MemoryRegistryStore(),
            artifacts=artifacts,
            acceptor=ReadingAcceptor(),
        )


def download(digest: str, *, artifacts: MemoryObjectStore) -> bytes:
    with downloaded(digest, artifacts=artifacts, spool=a_file) as file:
        return file.read()


def weights(header: object, body: bytes = b"") -> bytes:
    """A safetensors file."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def tensor(first: int, last: int, dtype: str = "F32", shape: object = (1,)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


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
    assert data == download(digest, artifacts=artifacts)


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
        (gzip.compress(b"model", mtime=0), "FORMAT"),
        (b"\x89HDF\r\n\x1a\n", "FORMAT"),
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


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "# Ein Modell für Züge\n" * 40, "{}"])
def test_text_is_told_as_one(text: str) -> None:
    with pytest.raises(Invalid, match=r"FORMAT.*problem=is a text file"):
        upload(text.encode(), artifacts=MemoryObjectStore())


def test_empty_file_is_told_as_one() -> None:
    with pytest.raises(Invalid, match="problem=the file is empty"):
        upload(b"", artifacts=MemoryObjectStore())


def test_weights_are_taken_as_safetensors() -> None:
    header = {"b": tensor(4, 12, "I64"), "a": tensor(0, 4), "__metadata__": {"format": "pt"}}

    artifacts = MemoryObjectStore()
    digest = upload(weights(header, b"x" * 12), artifacts=artifacts, kind="safetensors")

    assert [f"sha256/{digest}"] == artifacts.keys()


def test_pickle_of_a_torch_archive_is_found_where_it_is_read_in_two_pieces() -> None:
    data = b"PK\x03\x04".ljust(PIECE_BYTES - 4, b"\x00") + b"data.pkl"

    with pytest.raises(Invalid, match="PICKLE"):
        upload(data, artifacts=MemoryObjectStore())


PICKLED_TEXT = pickle.dumps({"a": 1}, protocol=0).decode()


@pytest.mark.parametrize(
    "header",
    [
        {"__metadata__": {"a": PICKLED_TEXT}, "a": tensor(0, 4)},
        {"__metadata__": {PICKLED_TEXT: "a"}, "a": tensor(0, 4)},
        {PICKLED_TEXT: tensor(0, 4)},
    ],
)
def test_pickle_beside_the_weights_is_refused(header: object) -> None:
    with pytest.raises(Invalid, match="PICKLE"):
        upload(weights(header, b"x" * 4), artifacts=MemoryObjectStore(), kind="safetensors")


@pytest.mark.parametrize(
    "data",
    [
        b"\x02",
        (1 << 62).to_bytes(8, "little") + b"{}",
        weights(b"{}")[:-1],
        weights(b"[]"),
        weights(b"{" * 100_000),
        weights(b"\xff\xfe"),
        weights(b'{"a":1,"a":2}'),
        weights({"a": tensor(0, 4)}, b"x" * 5),
        weights({"a": tensor(0, 8)}, b"x" * 8),
        weights({"a": tensor(0, 4), "b": tensor(2, 6)}, b"x" * 6),
        weights({"a": tensor(0, 4), "b": tensor(5, 9)}, b"x" * 9),
        weights({"a": tensor(0, 4), "b": tensor(8, 12)}, b"x" * 8),
        weights({"a": tensor(4, 0)}, b"x" * 4),
        weights({"a": tensor(-4, 0)}, b"x" * 4),
        weights({"a": tensor(False, 4)}, b"x" * 4),
        weights({"a": tensor(0, True, "U8")}, b"x"),
        weights({"a": tensor(0, 4, "F31")}, b"x" * 4),
        weights({"a": tensor(0, 4, "F32", [True])}, b"x" * 4),
        weights({"a": tensor(0, 4, "F32", [-1])}, b"x" * 4),
        weights({"a": tensor(0, 4, "F32", [2**62, 2**62])}, b"x" * 4),
        weights({"a": tensor(0, 0, "F32", [1] * 64)}, b""),
        weights({"a": tensor(0, 4, "F32", [1] * 65)}, b"x" * 4),
        weights({"a": {"dtype": "F32"}}, b""),
        weights({"a": {**tensor(0, 4), "more": PICKLED_TEXT}}, b"x" * 4),
        an_onnx_file(),
    ],
)
def test_weights_that_lie_elsewhere_than_they_say_are_refused(data: bytes) -> None:
    artifacts = MemoryObjectStore()

    with pytest.raises(Invalid, match="FORMAT"):
        upload(data, artifacts=artifacts, kind="safetensors")
    assert [] == artifacts.keys()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (
            weights({"a": tensor(0, 4, "F31")}, b"x" * 4),
            "a has an unknown type: 'F31'",
        ),
        (
            weights({"a": {**tensor(0, 4), "more": [1]}}, b"x" * 4),
            "a says more than its type, shape and offsets",
        ),
        (weights(b'{"a":\xff}'), "byte 5 of its header is no UTF-8"),
        (weights(b"[" * 100_000), "its header is nested too deep"),
        (weights(b'{"a":1,}'), "its header is no JSON from character "),
        (weights(b'{"a":1,"a":2}'), "a name is given twice in its header"),
        (weights(b'{"a":' + b"9" * 5_000 + b"}"), "its header holds a number that is too long"),
        (weights(b"{}"), "it holds no tensor"),
        (weights({"__metadata__": {"format": "pt"}}), "it holds no tensor"),
    ],
)
def test_weights_that_are_wrong_are_told_how(data: bytes, problem: str) -> None:
    with pytest.raises(Invalid, match=problem):
        upload(data, artifacts=MemoryObjectStore(), kind="safetensors")


def test_weights_that_are_sent_as_a_model_are_told_as_weights() -> None:
    data = weights({"a": tensor(0, 4)}, b"x" * 4)

    with pytest.raises(Invalid, match=r"format=onnx.*weights alone"):
        upload(data, artifacts=MemoryObjectStore())


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
        download("a" * 64, artifacts=MemoryObjectStore())


def test_bytes_changed_in_the_store_are_not_handed_out() -> None:
    artifacts = MemoryObjectStore()
    artifacts.put_if_absent(artifact_key("a" * 64), b"tampered")

    with pytest.raises(Corrupt, match="DIGEST_MISMATCH"):
        download("a" * 64, artifacts=artifacts)


def test_callers_that_have_not_sent_their_metadata_take_no_transfer() -> None:
    data = an_onnx_file()
    api = ArtifactApi(
        store=MemoryRegistryStore(),
        artifacts=MemoryObjectStore(),
        acceptor=ReadingAcceptor(),
        spool=a_file,
        clock=FixedClock(0),
        bytes_max=1 << 20,
    )
    metadata = pb.ArtifactMetadata(
        digest=sha256(data).hexdigest(), size_bytes=len(data), format="onnx"
    )
    digests = []

    def parts(waiting: int):
        if waiting:  # the next caller is served while this one still waits
            digests.append(api.UploadArtifact(parts(waiting - 1), None).digest)
        yield pb.UploadArtifactRequest(metadata=metadata)
        yield pb.UploadArtifactRequest(chunk=data)

    api.UploadArtifact(parts(UPLOADS_MAX), None)

    assert [metadata.digest] * UPLOADS_MAX == digests

# SPDX-License-Identifier: Apache-2.0
"""Bytes by their digest: whole or not at all, the same for ever, and gone on with after a cut."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from itertools import islice

import grpc
import pytest
from contracts.conformance.registry.asking import (
    CHUNK_BYTES,
    Registry,
    an_onnx_file,
    digest_of,
    parts_of,
    refused,
)

from headrace.registry.v1 import registry_service_pb2 as pb

INVALID = grpc.StatusCode.INVALID_ARGUMENT
BAD_REQUEST, FORMAT = (INVALID, "BAD_REQUEST"), (INVALID, "FORMAT")
UNKNOWN = (grpc.StatusCode.NOT_FOUND, "ARTIFACT_UNKNOWN")


def begun(registry: Registry, data: bytes) -> pb.BeginUploadResponse:
    metadata = pb.ArtifactMetadata(digest=digest_of(data), size_bytes=len(data), format="onnx")
    return registry.call("BeginUpload", pb.BeginUploadRequest(metadata=metadata))


def test_bytes_come_back_as_they_were_sent(registry):
    data = an_onnx_file()

    assert digest_of(data) == registry.upload(data)
    assert data == registry.download(digest_of(data))


def test_download_goes_on_from_an_offset(registry):
    data = an_onnx_file()
    registry.upload(data)

    assert data[10:] == registry.download(digest_of(data), offset=10)


def test_repeat_of_an_upload_finds_it_there(registry):
    data = an_onnx_file()
    registry.upload(data)

    assert begun(registry, data).stored
    assert digest_of(data) == registry.upload(data)


def test_bytes_that_hash_to_something_else_are_refused_and_not_kept(registry):
    data, other = an_onnx_file("one"), digest_of(an_onnx_file())

    refusal = refused(lambda: registry.upload(data, digest=other))

    assert (grpc.StatusCode.DATA_LOSS, "DIGEST_MISMATCH") == refusal
    assert UNKNOWN == refused(lambda: registry.download(other))


@pytest.mark.parametrize("change", [-1, 1])
def test_other_number_of_bytes_than_was_told_is_refused(registry, change):
    data = an_onnx_file()

    refusal = refused(lambda: registry.upload(data, size_bytes=len(data) + change))

    assert BAD_REQUEST == refusal
    assert UNKNOWN == refused(lambda: registry.download(digest_of(data)))


def test_chunk_before_the_metadata_is_refused(registry):
    parts = [pb.UploadArtifactRequest(chunk=b"x")]

    assert BAD_REQUEST == refused(lambda: registry.send(iter(parts)))


def test_upload_without_a_part_is_refused(registry):
    assert BAD_REQUEST == refused(lambda: registry.send(iter(())))


def test_cut_upload_is_no_artifact_and_goes_on(registry):
    data = an_onnx_file("n" * (3 * CHUNK_BYTES))

    assert BAD_REQUEST == refused(lambda: registry.send(islice(parts_of(data), 2)))
    assert UNKNOWN == refused(lambda: registry.download(digest_of(data)))
    kept = begun(registry, data)

    assert not kept.stored
    assert 0 <= kept.offset_bytes <= CHUNK_BYTES
    registry.send(parts_of(data, offset=kept.offset_bytes))
    assert data == registry.download(digest_of(data))


def test_upload_from_where_nothing_ends_is_refused(registry):
    data = an_onnx_file()

    refusal = refused(lambda: registry.send(parts_of(data, offset=len(data) // 2)))

    assert (grpc.StatusCode.FAILED_PRECONDITION, "UPLOAD_MOVED") == refusal


@pytest.mark.parametrize("digest", ["", "A" * 64, "f" * 63, "../../etc/passwd", "g" * 64])
def test_name_that_is_no_digest_is_refused(registry, digest):
    assert BAD_REQUEST == refused(lambda: registry.upload(an_onnx_file(), digest=digest))
    assert BAD_REQUEST == refused(lambda: registry.download(digest))


def test_pickle_is_refused_by_its_content(registry):
    data = pickle.dumps({"model": 1})

    assert (INVALID, "PICKLE") == refused(lambda: registry.upload(data))


def test_more_bytes_than_may_be_are_refused_before_they_are_sent(registry):
    refusal = refused(lambda: registry.upload(an_onnx_file(), size_bytes=(1 << 31) + 1))

    assert (grpc.StatusCode.RESOURCE_EXHAUSTED, "ARTIFACT_TOO_LARGE") == refusal


@pytest.mark.parametrize("format", ["", "pickle", "zip", "ONNX"])
def test_format_that_is_not_taken_is_refused(registry, format):
    assert FORMAT == refused(lambda: registry.upload(an_onnx_file(), format=format))


def packed(kind: str) -> bytes:
    """A model in an archive."""
    data, file = an_onnx_file(), io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("model.onnx", data)
    else:
        with tarfile.open(fileobj=file, mode="w") as archive:
            entry = tarfile.TarInfo("model.onnx")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("format", ["onnx", "safetensors"])
def test_archive_is_refused_by_its_content(registry, kind, format):
    assert FORMAT == refused(lambda: registry.upload(packed(kind), format=format))


@pytest.mark.parametrize(
    ("data", "refusal"), [(b"", BAD_REQUEST), (b"no model", FORMAT), (b"\x00" * 100, FORMAT)]
)
def test_bytes_that_are_no_model_are_refused(registry, data, refusal):
    assert refusal == refused(lambda: registry.upload(data))


def test_unknown_artifact_is_not_found(registry):
    assert UNKNOWN == refused(lambda: registry.download("0" * 64))

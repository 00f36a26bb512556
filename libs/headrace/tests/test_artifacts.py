# SPDX-License-Identifier: Apache-2.0
"""Bytes go on where a link was cut, and what comes is what its digest says."""

from hashlib import sha256

import grpc
import pytest

from headrace import artifacts
from headrace.artifacts import CHUNK_BYTES, TRIES_MAX, download, upload
from headrace.errors import Busy, Corrupt, Invalid, Unavailable
from headrace.registry.v1 import registry_service_pb2 as pb

DATA = bytes(range(256)) * (CHUNK_BYTES * 5 // 256) + b"end"
DIGEST = sha256(DATA).hexdigest()


class Refused(grpc.RpcError):
    """What a stub raises when the other end or the link says no."""

    def __init__(self, code=grpc.StatusCode.UNAVAILABLE):
        self._code = code

    def code(self):
        return self._code

    def details(self):
        return ""

    def trailing_metadata(self):
        return ()


class Registry:
    """A stub of ArtifactService; `failures` come one a call, a number cuts it behind so many."""

    def __init__(self, *failures):
        self.failures = list(failures)
        self.stored, self.kept, self.sent_bytes = {}, b"", 0
        self.formats = set()

    def BeginUpload(self, request, timeout):  # noqa: N802
        stored = request.metadata.digest in self.stored
        return pb.BeginUploadResponse(stored=stored, offset_bytes=len(self.kept))

    def UploadArtifact(self, requests, timeout):  # noqa: N802
        failure = self.failures.pop(0) if self.failures else None
        first = next(requests)
        assert len(self.kept) == first.offset_bytes
        self.formats.add(first.metadata.format)
        for count, part in enumerate(requests):
            if failure == count:
                raise Refused
            self.kept += part.chunk
            self.sent_bytes += len(part.chunk)
        if isinstance(failure, Exception):
            self.kept = b"" if isinstance(failure, Corrupt) else self.kept
            raise failure
        self.stored[first.metadata.digest] = self.kept
        return pb.UploadArtifactResponse(digest=first.metadata.digest)

    def DownloadArtifact(self, request, timeout):  # noqa: N802
        failure = self.failures.pop(0) if self.failures else None
        data = self.stored[request.digest]
        for count, start in enumerate(range(request.offset_bytes, len(data), CHUNK_BYTES)):
            if failure == count:
                raise Refused
            self.sent_bytes += len(data[start : start + CHUNK_BYTES])
            yield pb.DownloadArtifactResponse(chunk=data[start : start + CHUNK_BYTES])


@pytest.fixture
def waits(monkeypatch):
    """How long was waited, instead of waiting."""
    seconds = []
    monkeypatch.setattr(artifacts.time, "sleep", seconds.append)
    return seconds


def test_upload_goes_on_where_it_was_cut(waits):
    registry = Registry(2, 0, 3)

    assert DIGEST == upload(registry, DATA)
    assert (DATA, len(DATA)) == (registry.stored[DIGEST], registry.sent_bytes)
    assert {"onnx"} == registry.formats


def test_what_is_there_is_not_sent():
    registry = Registry()
    registry.stored[DIGEST] = DATA

    assert DIGEST == upload(registry, DATA)
    assert 0 == registry.sent_bytes


def test_busy_registry_is_asked_again_ever_later_and_not_for_ever(waits):
    registry = Registry(*[Refused(grpc.StatusCode.RESOURCE_EXHAUSTED)] * 100)

    with pytest.raises(Busy, match="QUEUE_FULL"):
        upload(registry, DATA)
    assert TRIES_MAX == len(waits) - 1  # the first try came further
    assert sorted(waits[1:]) == waits[1:]
    assert 40 > sum(waits)


def test_upload_that_comes_further_is_not_given_up(waits):
    registry = Registry(*([0] * (TRIES_MAX - 1) + [1]) * 5)

    assert DIGEST == upload(registry, DATA)


def test_refused_file_is_not_sent_again(waits):
    registry = Registry(Invalid("PICKLE"))

    with pytest.raises(Invalid, match="PICKLE"):
        upload(registry, DATA)
    assert [] == waits


def test_upload_that_went_on_behind_wrong_bytes_is_sent_whole(waits):
    registry = Registry(Corrupt("DIGEST_MISMATCH"))
    registry.kept = b"x" * 10

    assert DIGEST == upload(registry, DATA)
    assert DATA == registry.stored[DIGEST]


def test_bytes_that_are_wrong_from_the_start_are_told(waits):
    with pytest.raises(Corrupt, match="DIGEST_MISMATCH"):
        upload(Registry(Corrupt("DIGEST_MISMATCH")), DATA)
    assert [] == waits


def test_download_goes_on_where_it_was_cut(waits):
    registry = Registry(1, 0, 2)
    registry.stored[DIGEST] = DATA

    assert DATA == download(registry, DIGEST)
    assert len(DATA) == registry.sent_bytes


def test_download_of_other_bytes_is_corrupt(waits):
    registry = Registry()
    registry.stored[DIGEST] = DATA + b"x"

    with pytest.raises(Corrupt, match="DIGEST_MISMATCH"):
        download(registry, DIGEST)


def test_download_that_brings_nothing_is_given_up(waits):
    registry = Registry(*[0] * 100)
    registry.stored[DIGEST] = DATA

    with pytest.raises(Unavailable, match="SERVICE_UNAVAILABLE"):
        download(registry, DIGEST)
    assert TRIES_MAX == len(waits)

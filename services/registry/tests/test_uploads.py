# SPDX-License-Identifier: Apache-2.0
"""Uploads that are cut go on; what is wrong, too old or too much is not kept."""

from __future__ import annotations

import errno
import threading
import tracemalloc
from hashlib import sha256

import pytest

from headrace.errors import Busy, Conflict, Corrupt, HeadraceError, Invalid, Unavailable
from headrace.registry.v1 import registry_service_pb2 as pb
from headrace_kit.objects import FolderObjectStore, MemoryObjectStore, ObjectStore
from headrace_kit.testing import FixedClock
from headrace_registry.adapters.disk_spool import DiskSpool
from headrace_registry.adapters.grpc_api import UPLOADS_MAX, ArtifactApi
from headrace_registry.adapters.memory_store import MemoryRegistryStore
from headrace_registry.adapters.upload_sweep import UploadSweep
from headrace_registry.domain.artifact import ArtifactMetadata
from headrace_registry.domain.upload import (
    PART_AGE_S_MAX,
    PART_BYTES,
    PART_BYTES_MIN,
    Part,
    parts_of,
    without_gap,
)
from headrace_registry.handlers import uploads
from headrace_registry.handlers.artifacts import upload_artifact
from headrace_registry.handlers.uploads import Upload, begin_upload, sweep_uploads
from headrace_registry.testing import ReadingAcceptor, a_file

CHUNK_BYTES = 128 * 1024
BODY = bytes(2 * PART_BYTES + CHUNK_BYTES)
HEADER = b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (len(BODY), len(BODY))
DATA = len(HEADER).to_bytes(8, "little") + HEADER + BODY
DIGEST = sha256(DATA).hexdigest()
METADATA = ArtifactMetadata(DIGEST, len(DATA), "safetensors")
CLOCK = FixedClock(1_000)


@pytest.fixture(params=["memory", "folder"])
def artifacts(request, tmp_path) -> ObjectStore:
    return MemoryObjectStore() if request.param == "memory" else FolderObjectStore(tmp_path)


def an_api(
    artifacts: ObjectStore, acceptor: object = None, *, bytes_max: int = 32 << 20
) -> ArtifactApi:
    return ArtifactApi(
        store=MemoryRegistryStore(),
        artifacts=artifacts,
        acceptor=acceptor or ReadingAcceptor(),
        spool=a_file,
        clock=CLOCK,
        bytes_max=bytes_max,
    )


def send(api: ArtifactApi, *, begin: int = 0, end: int = len(DATA), metadata: object = METADATA):
    """Sends these bytes of it; the caller is gone before the last unless `end` is."""
    proto = pb.ArtifactMetadata(
        digest=metadata.digest, size_bytes=metadata.size_bytes, format=metadata.format
    )

    def parts():
        yield pb.UploadArtifactRequest(metadata=proto, offset_bytes=begin)
        for start in range(begin, end, CHUNK_BYTES):
            yield pb.UploadArtifactRequest(chunk=DATA[start : min(start + CHUNK_BYTES, end)])
        if end < len(DATA):
            raise Unavailable("STREAM_STALLED")  # as the kit tells it

    return api.UploadArtifact(parts(), None).digest


def cut(api: ArtifactApi, *, begin: int = 0, end: int) -> None:
    with pytest.raises(Unavailable, match="STREAM_STALLED"):
        send(api, begin=begin, end=end)


def offset(artifacts: ObjectStore) -> int:
    return begin_upload(METADATA, artifacts=artifacts).offset_bytes


def test_upload_that_was_cut_goes_on_where_it_was_and_leaves_no_part(artifacts):
    cut(an_api(artifacts), end=PART_BYTES + 3 * CHUNK_BYTES)
    assert PART_BYTES + 3 * CHUNK_BYTES == offset(artifacts)
    cut(an_api(artifacts), begin=offset(artifacts), end=2 * PART_BYTES)

    assert DIGEST == send(an_api(artifacts), begin=offset(artifacts))
    assert DATA == artifacts.get(f"sha256/{DIGEST}")
    assert [] == artifacts.keys("uploads")


def test_upload_that_ends_before_all_was_sent_goes_on_where_it_was(artifacts):
    """As gRPC tells a call that is cancelled, when it does not tell that it was cut."""
    end = PART_BYTES + 3 * CHUNK_BYTES
    proto = pb.ArtifactMetadata(digest=DIGEST, size_bytes=len(DATA), format="safetensors")
    sent = [pb.UploadArtifactRequest(metadata=proto)]
    for start in range(0, end, CHUNK_BYTES):
        sent.append(pb.UploadArtifactRequest(chunk=DATA[start : start + CHUNK_BYTES]))

    with pytest.raises(Invalid, match="BAD_REQUEST"):
        an_api(artifacts).UploadArtifact(iter(sent), None)

    assert end == offset(artifacts)
    assert DIGEST == send(an_api(artifacts), begin=end)


def test_process_that_dies_leaves_the_parts_that_were_full(artifacts, monkeypatch):
    with a_file() as file:
        upload = Upload(METADATA, 0, file=file, artifacts=artifacts, clock=CLOCK)
        for start in range(0, PART_BYTES + 2 * CHUNK_BYTES, CHUNK_BYTES):
            upload.add(DATA[start : start + CHUNK_BYTES])

    assert PART_BYTES == offset(artifacts)  # nobody said that it ended


def stored(api: ArtifactApi) -> bool:
    request = pb.BeginUploadRequest(
        metadata=pb.ArtifactMetadata(digest=DIGEST, size_bytes=len(DATA), format="safetensors")
    )
    return api.BeginUpload(request, None).stored


def downloaded(api: ArtifactApi) -> bytes:
    parts = api.DownloadArtifact(pb.DownloadArtifactRequest(digest=DIGEST), None)
    return b"".join(part.chunk for part in parts)


def test_what_is_stored_needs_no_byte(artifacts):
    send(an_api(artifacts))

    assert stored(an_api(artifacts))


@pytest.mark.parametrize("changed", [b"x" + DATA[1:], DATA[:-1], b""])
def test_changed_bytes_are_replaced_by_an_upload_of_the_right_ones(artifacts, changed):
    artifacts.put_if_absent(f"sha256/{DIGEST}", changed)
    with pytest.raises(Corrupt, match="DIGEST_MISMATCH"):
        downloaded(an_api(artifacts))

    assert not stored(an_api(artifacts))
    send(an_api(artifacts))

    assert stored(an_api(artifacts))
    assert DATA == downloaded(an_api(artifacts))
    assert [f"sha256/{DIGEST}"] == artifacts.keys("sha256") + artifacts.keys("suspects")


def test_changed_bytes_that_nobody_found_yet_are_replaced_too(artifacts):
    artifacts.put_if_absent(f"sha256/{DIGEST}", DATA[:-1])

    send(an_api(artifacts))

    assert DATA == downloaded(an_api(artifacts))


def test_upload_that_dies_while_it_replaces_leaves_what_another_put_there():
    class Raced(MemoryObjectStore):
        """Whoever looks first sees another replace the bytes, and then its own puts fail."""

        looked = away = False

        def pieces(self, key):
            yield from super().pieces(key)
            if not self.looked:
                self.looked = True
                send(an_api(self))
                self.away = True

        def put_file_if_absent(self, key, file):
            self.check()
            return super().put_file_if_absent(key, file)

        def put_file(self, key, file):
            self.check()
            super().put_file(key, file)

        def check(self):
            if self.away:
                raise Unavailable("OBJECT_STORE_UNAVAILABLE")

    artifacts = Raced()
    artifacts.put_if_absent(f"sha256/{DIGEST}", DATA[:-1])

    with pytest.raises(Unavailable, match="OBJECT_STORE_UNAVAILABLE"):
        send(an_api(artifacts))

    assert artifacts.away
    assert DATA == downloaded(an_api(artifacts))


def test_wrong_bytes_replace_nothing(artifacts):
    artifacts.put_if_absent(f"sha256/{DIGEST}", DATA[:-1])
    wrong = ArtifactMetadata(DIGEST, len(DATA) - CHUNK_BYTES, "safetensors")

    with (
        a_file(DATA[:-CHUNK_BYTES]) as file,
        pytest.raises(Corrupt, match="DIGEST_MISMATCH"),
    ):
        upload_artifact(
            wrong,
            file,
            store=MemoryRegistryStore(),
            artifacts=artifacts,
            acceptor=ReadingAcceptor(),
        )

    assert DATA[:-1] == artifacts.get(f"sha256/{DIGEST}")


@pytest.mark.parametrize("begin", [1, PART_BYTES, len(DATA)])
def test_upload_from_elsewhere_than_it_ended_is_told_so(artifacts, begin):
    cut(an_api(artifacts), end=2 * PART_BYTES - CHUNK_BYTES)

    with pytest.raises(Conflict, match="UPLOAD_MOVED"):
        send(an_api(artifacts), begin=begin + CHUNK_BYTES if begin == PART_BYTES else begin)


def test_wrong_bytes_of_another_do_not_spoil_the_digest(artifacts):
    artifacts.put_if_absent(Part(DIGEST, 0, PART_BYTES, 1).key, b"x" * PART_BYTES)

    with pytest.raises(Corrupt, match="DIGEST_MISMATCH"):
        send(an_api(artifacts), begin=offset(artifacts))
    assert 0 == offset(artifacts)
    assert DIGEST == send(an_api(artifacts))


def test_refused_file_leaves_no_part(artifacts):
    metadata = ArtifactMetadata(DIGEST, len(DATA), "onnx")

    with pytest.raises(Invalid):
        send(an_api(artifacts), metadata=metadata)
    assert [] == artifacts.keys("uploads")


def test_file_that_waits_for_the_child_in_vain_is_not_sent_again(artifacts):
    class Busily:
        def accept(self, file):
            raise Busy("QUEUE_FULL")

    metadata = ArtifactMetadata(DIGEST, len(DATA), "onnx")
    tail = len(DATA) % CHUNK_BYTES + CHUNK_BYTES
    with pytest.raises(Busy, match="QUEUE_FULL"):
        send(an_api(artifacts, Busily()), metadata=metadata)

    assert tail < PART_BYTES_MIN
    assert 2 * PART_BYTES == offset(artifacts)


def test_few_bytes_are_not_kept(artifacts):
    cut(an_api(artifacts), end=PART_BYTES_MIN - CHUNK_BYTES)

    assert [] == artifacts.keys("uploads")


def test_uploads_beyond_the_room_go_on_without_being_kept(artifacts, monkeypatch):
    monkeypatch.setattr(uploads, "PARTS_BYTES_MAX", PART_BYTES + 1)
    cut(an_api(artifacts), end=2 * PART_BYTES)

    assert PART_BYTES == offset(artifacts)
    assert DIGEST == send(an_api(artifacts), begin=PART_BYTES)


def test_parts_go_when_nobody_went_on_for_a_day(artifacts):
    cut(an_api(artifacts), end=PART_BYTES)
    last_us = CLOCK.now_us() + PART_AGE_S_MAX * 1_000_000

    assert 0 == sweep_uploads(artifacts=artifacts, clock=FixedClock(last_us))
    assert 1 == sweep_uploads(artifacts=artifacts, clock=FixedClock(last_us + 1))
    assert [] == artifacts.keys("uploads")


def test_sweep_looks_by_itself(artifacts):
    artifacts.put_if_absent(Part(DIGEST, 0, 1, 1).key, b"x")
    gone = threading.Event()

    class Watched(MemoryObjectStore):
        def delete(self, key):
            gone.set()

    watched = Watched()
    watched.put_if_absent(Part(DIGEST, 0, 1, 1).key, b"x")
    sweep = UploadSweep(watched, FixedClock(PART_AGE_S_MAX * 1_000_000 + 2), interval_s=0.01)
    sweep.start()
    try:
        assert gone.wait(10.0)
    finally:
        sweep.stop(10.0)


def test_full_places_are_told_before_a_byte_is_read():
    api, begun, ended = an_api(MemoryObjectStore()), threading.Barrier(2), threading.Event()
    proto = pb.ArtifactMetadata(digest=DIGEST, size_bytes=len(DATA), format="safetensors")

    def waiting():
        yield pb.UploadArtifactRequest(metadata=proto)
        begun.wait(10.0)
        ended.wait(10.0)
        raise Unavailable("STREAM_STALLED")  # as the kit tells it

    def hold():
        with pytest.raises(Unavailable, match="STREAM_STALLED"):
            api.UploadArtifact(waiting(), None)

    holders = [threading.Thread(target=hold) for _ in range(UPLOADS_MAX)]
    for holder in holders:
        holder.start()
        begun.wait(10.0)
    try:
        with pytest.raises(Busy, match="QUEUE_FULL"):
            send(api)
    finally:
        ended.set()
        for holder in holders:
            holder.join(10.0)
    assert DIGEST == send(api)


@pytest.mark.parametrize(
    ("request_parts", "reason"),
    [
        ([pb.UploadArtifactRequest(chunk=b"x")], "BAD_REQUEST"),
        ([], "BAD_REQUEST"),
        ([pb.UploadArtifactRequest(offset_bytes=1)], "BAD_REQUEST"),
    ],
)
def test_upload_that_does_not_begin_as_agreed_is_refused(request_parts, reason):
    with pytest.raises(HeadraceError, match=reason):
        an_api(MemoryObjectStore()).UploadArtifact(iter(request_parts), None)


@pytest.mark.parametrize("begin", [-1, 1 << 62])
def test_offset_beyond_all_bytes_is_refused(begin):
    with pytest.raises((Invalid, Conflict), match=r"BAD_REQUEST|UPLOAD_MOVED"):
        send(an_api(MemoryObjectStore()), begin=begin)


def test_download_goes_on_at_an_offset(artifacts):
    send(an_api(artifacts))

    for begin in (0, 1, CHUNK_BYTES, len(DATA)):
        request = pb.DownloadArtifactRequest(digest=DIGEST, offset_bytes=begin)
        parts = an_api(artifacts).DownloadArtifact(request, None)
        assert DATA[begin:] == b"".join(part.chunk for part in parts)


@pytest.mark.parametrize("begin", [-1, len(DATA) + 1])
def test_download_from_outside_the_bytes_is_refused(begin):
    artifacts = MemoryObjectStore()
    artifacts.put_if_absent(f"sha256/{DIGEST}", DATA)
    request = pb.DownloadArtifactRequest(digest=DIGEST, offset_bytes=begin)

    with pytest.raises(Invalid, match="BAD_REQUEST"):
        next(an_api(artifacts).DownloadArtifact(request, None))


def test_store_that_goes_away_ends_the_upload_as_unavailable():
    class Away(MemoryObjectStore):
        def put_file_if_absent(self, key, file):
            raise Unavailable("OBJECT_STORE_UNAVAILABLE")

    with pytest.raises(Unavailable, match="OBJECT_STORE_UNAVAILABLE"):
        send(an_api(Away()))


def zeros(size_bytes):
    """A safetensors file of so many bytes, in chunks."""
    header = b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (size_bytes, size_bytes)
    yield len(header).to_bytes(8, "little") + header
    for _ in range(size_bytes // CHUNK_BYTES):
        yield bytes(CHUNK_BYTES)


def test_file_of_any_size_takes_little_memory_on_its_way_in_and_out(tmp_path):
    size_bytes, digest, total = 8 * PART_BYTES, sha256(), 0
    for chunk in zeros(size_bytes):
        digest.update(chunk)
        total += len(chunk)
    metadata = pb.ArtifactMetadata(
        digest=digest.hexdigest(), size_bytes=total, format="safetensors"
    )

    def parts():
        yield pb.UploadArtifactRequest(metadata=metadata)
        for chunk in zeros(size_bytes):
            yield pb.UploadArtifactRequest(chunk=chunk)

    api = an_api(FolderObjectStore(tmp_path), bytes_max=total)
    tracemalloc.start()
    try:
        api.UploadArtifact(parts(), None)
        request = pb.DownloadArtifactRequest(digest=metadata.digest)
        came = sum(len(part.chunk) for part in api.DownloadArtifact(request, None))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert total == came
    assert peak_bytes < 3 * PART_BYTES


def test_disk_without_room_is_told_and_nothing_stays_on_it(tmp_path):
    spool = DiskSpool(tmp_path / "spool")

    def write():
        with spool() as file:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "no room")

    with pytest.raises(Busy, match="DISK_FULL"):
        write()

    assert [] == [*(tmp_path / "spool").iterdir()]


def test_parts_join_by_the_one_that_reaches_furthest():
    parts = [
        Part(DIGEST, *each) for each in ((0, 3, 1), (0, 5, 2), (3, 4, 3), (5, 9, 4), (5, 6, 5))
    ]

    assert [(0, 5), (5, 9)] == [(each.first, each.end) for each in without_gap(parts, end=9)]
    assert [(0, 5), (5, 6)] == [(each.first, each.end) for each in without_gap(parts, end=8)]
    assert [] == without_gap([Part(DIGEST, 1, 2, 1), Part(DIGEST, 0, 0, 1)], end=9)


def test_part_is_known_by_its_key_and_other_keys_are_left_alone():
    part = Part(DIGEST, 0, 5, 7)

    assert [part] == parts_of([part.key, f"uploads/{DIGEST}/0-5", "uploads/x/0-5-7", "sha256/a"])

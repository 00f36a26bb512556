# SPDX-License-Identifier: Apache-2.0
"""Bytes are hashed at every load (P8), half files are never seen, the folder stays in its bound."""

import os
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest
from structlog.testing import capture_logs

from headrace.errors import Busy, Corrupt, Invalid, Unavailable
from headrace_inference.adapters import disk_artifact_store
from headrace_inference.adapters.cpu_quota import cpus_allowed
from headrace_inference.adapters.disk_artifact_store import DiskArtifactStore


class Source:
    """ArtifactSource that counts its downloads; `error` breaks one after the first chunk."""

    def __init__(self):
        self.data, self.downloads, self.error = {}, 0, None

    def upload(self, data):
        digest = sha256(data).hexdigest()
        self.data[digest] = data
        return digest

    def chunks(self, digest):
        self.downloads += 1
        data = self.data[digest]
        for start in range(0, len(data), 4):
            yield data[start : start + 4]
            if self.error is not None:
                raise self.error


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def store(source, tmp_path):
    return DiskArtifactStore(
        source, tmp_path / "models", cache_bytes_max=100, artifact_bytes_max=60
    )


def names(tmp_path):
    return {file.name for file in tmp_path.glob("models/*")}


def test_second_load_needs_no_download(store, source):
    digest = source.upload(b"a model's bytes")

    assert [b"a model's bytes"] * 2 == [store.get(digest), store.get(digest)]
    assert 1 == source.downloads


@pytest.mark.parametrize("kept", [b"", b"a model", b"a model's bytez"])
def test_kept_file_that_changed_is_fetched_anew(store, source, tmp_path, kept):
    digest = source.upload(b"a model's bytes")
    store.get(digest)
    (tmp_path / "models" / digest).write_bytes(kept)

    assert b"a model's bytes" == store.get(digest)
    assert b"a model's bytes" == (tmp_path / "models" / digest).read_bytes()


def test_bytes_that_do_not_hash_to_the_digest_are_never_kept(store, source, tmp_path):
    digest = source.upload(b"a model's bytes")
    source.data[digest] = b"another's bytes"

    with pytest.raises(Corrupt, match="DIGEST_MISMATCH"):
        store.get(digest)
    assert set() == names(tmp_path)


def test_broken_download_leaves_nothing(store, source, tmp_path):
    digest = source.upload(b"a model's bytes")
    source.error = Unavailable("SERVICE_UNAVAILABLE")

    with pytest.raises(Unavailable):
        store.get(digest)
    assert set() == names(tmp_path)


def test_half_file_of_a_process_that_was_killed_goes_at_the_next_start(source, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / f"{'a' * 64}.7.part").write_bytes(b"a mod")

    DiskArtifactStore(source, tmp_path / "models", cache_bytes_max=100, artifact_bytes_max=60)

    assert set() == names(tmp_path)


def test_too_large_an_artifact_is_refused_before_it_is_whole(store, source):
    digest = source.upload(b"x" * 1000)

    with pytest.raises(Busy, match="ARTIFACT_TOO_LARGE"):
        store.get(digest)


def test_too_large_an_artifact_is_not_downloaded_again(store, source):
    digest = source.upload(b"x" * 1000)

    for look in (store.fetch, store.get, store.fetch):
        with pytest.raises(Busy, match="INFERENCE_MODEL_BYTES_MAX"):
            look(digest)

    assert 1 == source.downloads


def test_least_recently_loaded_goes_when_the_folder_is_full(store, source, tmp_path):
    first, second, third = (source.upload(bytes([i]) * 40) for i in range(3))
    store.get(first)
    store.get(second)
    os.utime(tmp_path / "models" / first, ns=(2, 2))
    os.utime(tmp_path / "models" / second, ns=(1, 1))

    store.get(third)

    assert {first, third} == names(tmp_path)


def test_disk_that_takes_nothing_costs_the_cache_only(source, tmp_path):
    (tmp_path / "models").write_bytes(b"a file stands where the folder should be")
    store = DiskArtifactStore(
        source, tmp_path / "models", cache_bytes_max=100, artifact_bytes_max=60
    )

    assert b"a model" == store.get(source.upload(b"a model"))


def test_disk_that_is_full_half_way_leaves_no_half_file(store, source, tmp_path):
    digest = source.upload(b"a model's bytes")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (7, hard))
    try:
        with capture_logs() as logged:  # its file could not grow either
            store.fetch(digest)
            got = store.get(digest)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {"model_cache_not_written"} == {line["event"] for line in logged}
    assert (b"a model's bytes", 2) == (got, source.downloads)

    assert set() == names(tmp_path)
    assert b"a model's bytes" == store.get(digest)
    assert {digest} == names(tmp_path)


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_digest_that_is_none_reaches_no_file(store, source, digest):
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        store.get(digest)
    assert 0 == source.downloads


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu.max": "900000000 100000"}, None),
    ],
)
def test_cpus_follow_the_quota_of_the_container(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    assert (expected or len(os.sched_getaffinity(0))) == cpus_allowed(tmp_path)


# --- several processes on one folder: each store is one ---


@pytest.fixture
def other(source, tmp_path):
    """The store of another process: locks are those of open files, not of processes."""
    return DiskArtifactStore(
        source, tmp_path / "models", cache_bytes_max=100, artifact_bytes_max=60
    )


@pytest.fixture
def held(source):
    """Downloads stop half way until the event is set; `held.half` is set when one is there."""
    gate, half, chunks = threading.Event(), threading.Event(), source.chunks

    def slow(digest):
        for chunk in chunks(digest):
            yield chunk
            half.set()
            assert gate.wait(60.0)

    source.chunks, gate.half = slow, half
    return gate


def test_what_another_process_downloads_is_waited_for(store, other, source, held):
    digest = source.upload(b"a model's bytes")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(store.fetch, digest)
        assert held.half.wait(60.0)
        second = pool.submit(other.fetch, digest)
        assert not second.done()
        held.set()
        first.result(60.0)
        second.result(60.0)

    assert [b"a model's bytes"] * 2 == [store.get(digest), other.get(digest)]
    assert 1 == source.downloads


def test_who_has_waited_long_downloads_for_itself(store, other, source, held, monkeypatch):
    monkeypatch.setattr(disk_artifact_store, "WAIT_S_MAX", 0.0)
    digest = source.upload(b"a model's bytes")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(store.fetch, digest)
        assert held.half.wait(60.0)
        other.fetch(digest)
        held.set()
        assert b"a model's bytes" == other.get(digest)
        first.result(60.0)


def test_process_that_starts_leaves_a_download_of_another_alone(store, source, held, tmp_path):
    digest = source.upload(b"a model's bytes")
    with ThreadPoolExecutor(1) as pool:
        download = pool.submit(store.fetch, digest)
        assert held.half.wait(60.0)
        DiskArtifactStore(source, tmp_path / "models", cache_bytes_max=100, artifact_bytes_max=60)
        held.set()
        download.result(60.0)

    assert {digest} == names(tmp_path)
    assert b"a model's bytes" == (tmp_path / "models" / digest).read_bytes()


def test_download_goes_on_where_a_process_was_killed_in_it(store, source, tmp_path):
    digest = source.upload(b"a model's bytes")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / f"{digest}.part").write_bytes(b"another half, and longer than the whole")

    store.fetch(digest)

    assert {digest} == names(tmp_path)
    assert b"a model's bytes" == (tmp_path / "models" / digest).read_bytes()


def test_waiting_for_a_download_that_fails_ends_with_another_try(store, other, source, held):
    digest = source.upload(b"a model's bytes")
    with ThreadPoolExecutor(2) as pool:
        source.error = Unavailable("SERVICE_UNAVAILABLE")
        first = pool.submit(store.fetch, digest)
        assert held.half.wait(60.0)
        second = pool.submit(other.fetch, digest)
        held.set()
        assert isinstance(first.exception(60.0), Unavailable)
        assert isinstance(second.exception(60.0), Unavailable)

    assert 2 == source.downloads


def test_what_a_process_is_about_to_load_is_the_last_to_go(store, other, source, tmp_path):
    first, second, third = (source.upload(bytes([i]) * 40) for i in range(3))
    store.fetch(first)
    store.fetch(second)
    os.utime(tmp_path / "models" / first, ns=(1, 1))
    os.utime(tmp_path / "models" / second, ns=(2, 2))

    store.fetch(first)
    other.fetch(third)

    assert {first, third} == names(tmp_path)

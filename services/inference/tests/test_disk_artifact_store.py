# SPDX-License-Identifier: Apache-2.0
"""Bytes are hashed at every load (P8), half files are never seen, the folder stays in its bound."""

import os
from hashlib import sha256

import pytest

from headrace.errors import Busy, Corrupt, Invalid, Unavailable
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
    return {file.name for file in (tmp_path / "models").iterdir()}


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
    assert not (tmp_path / "models").exists()


def test_broken_download_leaves_nothing(store, source, tmp_path):
    digest = source.upload(b"a model's bytes")
    source.error = Unavailable("SERVICE_UNAVAILABLE")

    with pytest.raises(Unavailable):
        store.get(digest)
    assert not (tmp_path / "models").exists()


def test_too_large_an_artifact_is_refused_before_it_is_whole(store, source):
    digest = source.upload(b"x" * 1000)

    with pytest.raises(Busy, match="ARTIFACT_TOO_LARGE"):
        store.get(digest)


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

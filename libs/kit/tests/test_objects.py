# SPDX-License-Identifier: Apache-2.0
"""The laws of an object store, held by memory and folder; S3 is held to them in integration."""

import errno
import inspect
import os
from io import BytesIO
from tempfile import TemporaryFile

import pytest
from minio import Minio
from pydantic import SecretStr

from headrace.errors import Invalid, NotFound, Unavailable
from headrace_kit.objects import (
    FolderObjectStore,
    MemoryObjectStore,
    S3Settings,
    delta_storage_options,
    delta_table_uri,
    object_store,
    self_test,
)

S3 = S3Settings("http://127.0.0.1:7070", "key", SecretStr("secret"))


@pytest.fixture(params=["memory", "folder"])
def store(request, tmp_path):
    if request.param == "memory":
        return MemoryObjectStore()
    return object_store(f"file://{tmp_path}/objects", None)


def test_object_is_read_as_it_was_put(store):
    assert store.put_if_absent("sha256/abc", b"\x00data")

    assert b"\x00data" == store.get("sha256/abc")
    assert store.exists("sha256/abc")


def test_second_put_of_a_key_changes_nothing(store):
    store.put_if_absent("sha256/abc", b"first")

    assert not store.put_if_absent("sha256/abc", b"second")
    assert b"first" == store.get("sha256/abc")


@pytest.fixture
def file():
    """Written, and not rewound."""
    with TemporaryFile() as file:
        file.write(b"0123456789" * 300_000)
        yield file


def test_file_is_put_whole_and_read_in_pieces(store, file):
    assert store.put_file_if_absent("sha256/abc", file)
    assert not store.put_file_if_absent("sha256/abc", file)

    assert b"0123456789" * 300_000 == b"".join(store.pieces("sha256/abc"))


def test_file_that_is_put_over_another_replaces_it_for_who_reads_next(store, file):
    store.put_if_absent("sha256/abc", b"old")
    reading = store.pieces("sha256/abc")
    begun = next(reading)

    store.put_file("sha256/abc", file)

    assert b"old" == begun + b"".join(reading)
    assert b"0123456789" * 300_000 == store.get("sha256/abc")
    assert ["sha256/abc"] == store.keys("sha256")


def test_bytes_are_put_over_others(store):
    store.put("sha256/abc", b"old")
    store.put("sha256/abc", b"new")

    assert b"new" == store.get("sha256/abc")
    assert ["sha256/abc"] == store.keys("sha256")


def test_file_is_put_over_nothing_too(store, file):
    store.put_file("sha256/abc", file)

    assert b"0123456789" * 300_000 == store.get("sha256/abc")


def test_put_over_another_that_fails_leaves_the_old(tmp_path):
    class Broken(BytesIO):
        def read(self, *_):
            assert b"old" == store.get("sha256/abc")
            raise OSError(errno.EIO, "no more can be read")

    store = FolderObjectStore(tmp_path)
    store.put_if_absent("sha256/abc", b"old")

    with pytest.raises(Unavailable, match="OBJECT_STORE_UNAVAILABLE"):
        store.put_file("sha256/abc", Broken())

    assert b"old" == store.get("sha256/abc")
    assert [] == [*(tmp_path / ".puts").iterdir()]


def test_absent_object_is_not_found(store):
    assert not store.exists("sha256/abc")
    for read in (store.get, lambda key: [*store.pieces(key)]):
        with pytest.raises(NotFound, match="ARTIFACT_UNKNOWN"):
            read("sha256/abc")


def test_keys_below_a_folder_are_listed_and_deleted_ones_are_gone(store):
    for key in ("a/b/2", "a/b/1", "a/bc", "a/c"):
        store.put_if_absent(key, b"x")
    assert ["a/b/1", "a/b/2"] == store.keys("a/b")
    store.delete("a/b/1")
    store.delete("a/b/absent")

    assert ["a/b/2"] == store.keys("a/b")
    assert [] == store.keys("none")
    assert store.put_if_absent("a/b/1", b"again")


def test_file_of_a_put_that_was_killed_goes_after_a_day(tmp_path):
    store = FolderObjectStore(tmp_path)
    store.put_if_absent("a", b"x")
    left = {name: tmp_path / ".puts" / name for name in (".put-old", ".put-new")}
    for file in left.values():
        file.write_bytes(b"half")
    made_s = left[".put-old"].stat().st_mtime
    os.utime(left[".put-old"], (made_s, made_s - 86_500))

    store.put_if_absent("b", b"x")

    assert [left[".put-new"]] == list((tmp_path / ".puts").iterdir())


def test_prefix_that_is_no_object_is_not_found(store):
    store.put_if_absent("sha256/abc/def", b"")

    assert not store.exists("sha256/abc")
    with pytest.raises(NotFound, match="ARTIFACT_UNKNOWN"):
        store.get("sha256/abc")


@pytest.mark.parametrize(
    "key",
    ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "a/.hidden", "a\x00", "a b", "a\n", "é"],
)
def test_key_that_could_leave_the_store_is_refused(store, key):
    for use in (store.get, store.exists, lambda key: store.put_if_absent(key, b"")):
        with pytest.raises(Invalid, match="BAD_NAME"):
            use(key)


def test_self_test_passes_and_leaves_nothing(store):
    self_test(store)

    assert [] == store.keys("self-test")


def test_self_test_refuses_a_store_that_ignores_the_condition():
    class Unsafe(MemoryObjectStore):
        def put_if_absent(self, key, data):
            self._data_by_key[key] = data
            return True

    with pytest.raises(Unavailable, match="OBJECT_STORE_UNSAFE"):
        self_test(Unsafe())


def test_self_test_that_lost_the_winners_answer_calls_no_store_unsafe():
    class LosesAnswers(MemoryObjectStore):
        """As S3's client, which puts again where no answer came."""

        def put_if_absent(self, key, data):
            super().put_if_absent(key, data)
            return super().put_if_absent(key, data)

    with pytest.raises(Unavailable, match=r"OBJECT_STORE_UNAVAILABLE.*start again"):
        self_test(LosesAnswers())


def test_folder_that_cannot_be_written_is_unavailable(tmp_path):
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(Unavailable, match="OBJECT_STORE_UNAVAILABLE"):
        FolderObjectStore(tmp_path / "file").put_if_absent("a", b"")


@pytest.mark.parametrize("uri", ["", "/folder", "file://host/folder", "s3://bucket", "gs://bucket"])
def test_uri_that_names_no_store_is_refused(uri):
    with pytest.raises(Invalid, match="BAD_SETTING"):
        object_store(uri, None)


def test_delta_is_told_to_put_conditionally():
    options = delta_storage_options("s3://bucket/prefix", S3)

    assert "etag" == options["aws_conditional_put"]
    assert "true" == options["AWS_ALLOW_HTTP"]
    assert {} == delta_storage_options("file:///folder", S3)
    assert "s3://b/p/records/x" == delta_table_uri("s3://b/p/", "records", "x")


def test_minio_has_the_calls_that_it_has_no_public_name_for():
    """Its upgrades may change these without a word."""
    asked = {"bucket_name", "prefix", "max_uploads", "key_marker"}
    assert asked <= inspect.signature(Minio._list_multipart_uploads).parameters.keys()
    ended = inspect.signature(Minio._abort_multipart_upload).parameters
    assert ["self", "bucket_name", "object_name", "upload_id"] == [*ended]
    put = inspect.signature(Minio._put_object).parameters
    assert ["self", "bucket_name", "object_name", "data", "headers"] == [*put][:5]

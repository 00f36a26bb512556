# SPDX-License-Identifier: Apache-2.0
"""The laws of the object store on a real S3 server; libs/kit/tests holds the others to them."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from tempfile import TemporaryFile
from threading import Barrier

import pytest
from pydantic import SecretStr

from headrace.errors import NotFound, Unavailable
from headrace_kit import objects
from headrace_kit.objects import PIECE_BYTES, S3Settings, object_store, self_test

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(s3_server):
    return S3Settings(
        s3_server.endpoint, s3_server.access_key, SecretStr(s3_server.secret_key), s3_server.region
    )


@pytest.fixture
def store(settings):
    return object_store(f"s3://headrace/{uuid.uuid4().hex}", settings)


def test_object_is_read_as_it_was_put(store):
    data = bytes(range(256)) * 20_000

    assert not store.exists("sha256/abc")
    assert store.put_if_absent("sha256/abc", data)
    assert store.exists("sha256/abc")
    assert data == store.get("sha256/abc")


def test_second_put_of_a_key_changes_nothing(store):
    store.put_if_absent("a", b"first")

    assert not store.put_if_absent("a", b"second")
    assert b"first" == store.get("a")


def test_file_is_put_whole_and_read_in_pieces(store):
    with TemporaryFile() as file:
        file.write(b"0123456789" * 300_000)
        assert store.put_file_if_absent("sha256/abc", file)
        assert not store.put_file_if_absent("sha256/abc", file)

    pieces = [*store.pieces("sha256/abc")]
    assert max(map(len, pieces)) <= PIECE_BYTES
    assert b"0123456789" * 300_000 == b"".join(pieces)


def test_file_that_is_put_over_another_replaces_it(store):
    store.put_if_absent("sha256/abc", b"old")

    with TemporaryFile() as file:
        file.write(b"0123456789" * 300_000)
        store.put_file("sha256/abc", file)

    assert b"0123456789" * 300_000 == store.get("sha256/abc")
    assert ["sha256/abc"] == store.keys("sha256")


def test_bytes_are_put_over_others(store):
    store.put("sha256/abc", b"old")
    store.put("sha256/abc", b"new")

    assert b"new" == store.get("sha256/abc")
    assert ["sha256/abc"] == store.keys("sha256")


def test_absent_object_is_not_found(store):
    for read in (store.get, lambda key: [*store.pieces(key)]):
        with pytest.raises(NotFound, match="ARTIFACT_UNKNOWN"):
            read("absent")


def test_keys_below_a_folder_are_listed_and_deleted_ones_are_gone(store):
    folder = uuid.uuid4().hex
    for key in ("b/2", "b/1", "bc"):
        store.put_if_absent(f"{folder}/{key}", b"x")
    assert [f"{folder}/b/1", f"{folder}/b/2"] == store.keys(f"{folder}/b")
    store.delete(f"{folder}/b/1")
    store.delete(f"{folder}/b/absent")

    assert [f"{folder}/b/2"] == store.keys(f"{folder}/b")
    assert [] == store.keys(uuid.uuid4().hex)


def test_racing_puts_have_one_winner(store):
    racers, rounds = 8, 20
    with ThreadPoolExecutor(racers) as pool:
        for number in range(rounds):
            barrier = Barrier(racers, timeout=20)

            def race(racer, key=f"race/{number}", barrier=barrier):
                barrier.wait()
                return store.put_if_absent(key, b"%d" % racer)

            won = list(pool.map(race, range(racers)))
            assert 1 == sum(won)
            assert b"%d" % won.index(True) == store.get(f"race/{number}")


def test_self_test_passes_and_leaves_nothing(store):
    self_test(store)

    assert [] == store.keys("self-test")


def test_bucket_is_made_by_the_first_put(settings):
    store = object_store(f"s3://fresh-{uuid.uuid4().hex[:20]}/prefix", settings)

    assert not store.exists("a")
    assert store.put_if_absent("a", b"x")
    assert b"x" == store.get("a")


def test_server_that_is_away_is_unavailable():
    away = S3Settings("http://127.0.0.1:1", "key", SecretStr("secret"))
    with pytest.raises(Unavailable, match="OBJECT_STORE_UNAVAILABLE"):
        object_store("s3://bucket/prefix", away).get("a")


def test_wrong_secret_is_unavailable_and_says_nothing_of_it(settings):
    wrong = S3Settings(settings.endpoint, settings.access_key, SecretStr("wrong-secret"))
    with pytest.raises(Unavailable, match="OBJECT_STORE_UNAVAILABLE") as raised:
        object_store("s3://headrace/prefix", wrong).put_if_absent("a", b"")
    assert "wrong-secret" not in str(raised.value)
    assert "it refuses the access key" in raised.value.metadata["problem"]


def test_bucket_that_is_not_there_has_nothing_unended(settings):
    store = object_store(f"s3://new-{uuid.uuid4().hex[:20]}/prefix", settings)

    store.forget_unended("records")


@pytest.mark.parametrize("ended_max", [3, 1_000])
def test_what_was_not_ended_is_found_on_every_page_of_the_list(ended_max, store, monkeypatch):
    store.put_if_absent("records/whole", b"x")
    for number in range(5):
        store._client._create_multipart_upload("headrace", f"{store._prefix}records/{number}", {})
    monkeypatch.setattr(objects, "UNENDED_PAGE", 2)
    monkeypatch.setattr(objects, "UNENDED_MAX", ended_max)
    store.forget_unended("records")
    assert 5 == len([*store._begun_uploads(f"{store._prefix}records/")])
    monkeypatch.setattr(objects, "CUT_PUT_AGE_S_MAX", -60)
    store.forget_unended("records")

    left = [*store._begun_uploads(f"{store._prefix}records/")]
    assert max(0, 5 - ended_max) == len(left)
    assert ["records/whole"] == store.keys("records")

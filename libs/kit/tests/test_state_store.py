# SPDX-License-Identifier: Apache-2.0
"""The laws of a state store, held by the memory and by the LMDB adapter."""

import os

import pytest

from headrace.errors import Busy
from headrace_kit.kafka import Partition
from headrace_kit.state_store import LmdbStateStore, MemoryStateStore

P0, P1 = Partition("raw.flights:odd.v1", 0), Partition("raw.weather.v1", 12)


@pytest.fixture(params=["memory", "lmdb"])
def store(request, tmp_path):
    if request.param == "memory":
        made = MemoryStateStore()
    else:
        made = LmdbStateStore(tmp_path / "state", map_bytes_max=1 << 24)
    yield made
    made.close()


def test_new_store_is_empty(store):
    assert store.get(b"a") is None
    assert {} == store.offsets()
    assert [] == list(store.scan(b"", b"\xff"))


def test_commit_stores_values_and_offsets(store):
    store.commit({b"a": b"1", b"b": b""}, (), {P0: 5, P1: 7})

    assert [b"1", None, b""] == store.get_many([b"a", b"x", b"b"])
    assert {P0: 5, P1: 7} == store.offsets()


def test_offsets_of_other_partitions_stay(store):
    store.commit({}, (), {P0: 5, P1: 7})
    store.commit({}, (), {P1: 8})

    assert {P0: 5, P1: 8} == store.offsets()


def test_put_wins_over_a_delete_of_the_same_key(store):
    store.commit({b"a": b"1", b"b": b"1"}, (), {})
    store.commit({b"a": b"2"}, [b"a", b"b", b"absent"], {})

    assert [b"2", None] == store.get_many([b"a", b"b"])


def test_scan_is_ordered_and_leaves_the_end_out(store):
    store.commit({key: key for key in (b"b", b"a\xff", b"a", b"c")}, (), {})

    assert [b"a", b"a\xff", b"b"] == [key for key, _ in store.scan(b"a", b"c")]


def test_scan_sees_one_moment(store):
    store.commit({b"a": b"1", b"b": b"1"}, (), {})
    scan = store.scan(b"a", b"z")
    first = next(scan)
    store.commit({b"b": b"2", b"c": b"2"}, (), {})

    assert [(b"a", b"1"), (b"b", b"1")] == [first, *scan]


def test_lmdb_keeps_everything_when_it_is_opened_again(tmp_path):
    store = LmdbStateStore(tmp_path, map_bytes_max=1 << 20)
    store.commit({b"a": b"1"}, (), {P0: 3})
    store.close()
    again = LmdbStateStore(tmp_path, map_bytes_max=1 << 20)

    assert (b"1", {P0: 3}) == (again.get(b"a"), again.offsets())
    again.close()


def test_lmdb_batch_that_does_not_fit_is_refused_whole(tmp_path):
    store = LmdbStateStore(tmp_path, map_bytes_max=1 << 17)
    store.commit({b"a": b"1"}, (), {P0: 1})

    with pytest.raises(Busy, match="STATE_FULL"):
        store.commit({b"%d" % n: os.urandom(1_000) for n in range(1_000)}, [b"a"], {P0: 2})

    assert (b"1", {P0: 1}) == (store.get(b"a"), store.offsets())
    store.close()

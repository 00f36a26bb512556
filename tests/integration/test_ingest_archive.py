# SPDX-License-Identifier: Apache-2.0
"""The laws of ingest's archive, held by memory, by Delta in a folder and by Delta on S3."""

from __future__ import annotations

import os
import time
import uuid
from datetime import date

import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError
from pydantic import SecretStr

from headrace.errors import Invalid, Unavailable
from headrace_ingest.adapters import delta_archive
from headrace_ingest.adapters.delta_archive import DeltaArchive
from headrace_ingest.adapters.delta_tables import DeltaTables
from headrace_ingest.adapters.memory_archive import MemoryArchive
from headrace_ingest.domain.accounts import Account
from headrace_ingest.domain.datasets import Selection
from headrace_ingest.domain.dedup import Seen
from headrace_ingest.domain.judging import ARCHIVE_COLUMNS, judge
from headrace_ingest.ports.archive import Overtaken, RawTopic
from headrace_ingest.testing import NOW_US, a_contract, a_raw, never_read
from headrace_kit.failpoints import arm
from headrace_kit.json_strict import decode
from headrace_kit.objects import S3Settings, delta_storage_options, delta_table_uri
from headrace_kit.testing import FixedClock, a_batch

pytestmark = pytest.mark.integration

STREAM, TOPIC_ID = "flights.departed", "topic-1"
TOPIC = RawTopic(TOPIC_ID, (0, 1))
FULL = Account(9, 3, 1, 2, {"BAD_TYPE": 3, "DUPLICATE_CONFLICT": 1}, NOW_US)


def rows(*numbers, contract=None, partition=0, **changes):
    contract = contract or a_contract()
    records = [a_raw(n, record={"partition": partition}, **changes) for n in numbers]
    columns = (*ARCHIVE_COLUMNS, *contract.stream.columns)
    return judge(a_batch(records), contract, decode=decode).rows.select(columns)


class World:
    """One place to store in, and as many processes on it as a test opens."""

    def __init__(self, make):
        self.make = make

    def open(self, *partitions, contract=None, topic_id=TOPIC_ID, ids_max=100):
        archive = self.make()
        restored = archive.open(
            contract or a_contract(), topic_id, partitions or (0,), ids_max=ids_max
        )
        return archive, restored

    def accounts(self):
        return self.make().accounts(STREAM, TOPIC)


@pytest.fixture(params=["memory", "folder", "s3"])
def world(request, tmp_path):
    if request.param == "memory":
        shared = MemoryArchive()
        return World(lambda: shared)
    return World(request.getfixturevalue(f"make_{request.param}_archive"))


@pytest.fixture
def make_folder_archive(tmp_path):
    return lambda: DeltaArchive(tmp_path.as_uri(), {}, was_read=never_read)


@pytest.fixture
def make_s3_archive(s3_server):
    uri = f"s3://headrace/{uuid.uuid4().hex}"
    s3 = S3Settings(s3_server.endpoint, s3_server.access_key, SecretStr(s3_server.secret_key))
    return lambda: DeltaArchive(uri, delta_storage_options(uri, s3), was_read=never_read)


def append(archive, part, before, after, *, contract=None):
    archive.append(contract or a_contract(), part, before, after)


def test_nothing_is_known_of_a_new_stream(world):
    assert all(account == Account() for account in world.accounts().values())
    _, restored = world.open(0, 1)
    assert {0: Account(), 1: Account()} == {n: each.account for n, each in restored.items()}


def test_rows_and_accounts_come_back_as_they_were_stored(world):
    archive, _ = world.open()
    append(archive, rows(0, 1), {0: Account()}, {0: FULL})

    _, restored = world.open(0, 1)
    assert (FULL, Account()) == (restored[0].account, restored[1].account)
    assert ["departed:0", "departed:1"] == [seen.event_id for seen in restored[0].seen]
    assert FULL == world.accounts()[0]


def test_seen_ids_carry_their_payload(world):
    archive, _ = world.open()
    part = rows(0)
    append(archive, part, {0: Account()}, {0: FULL})

    _, restored = world.open()
    assert [Seen("departed:0", part["_payload_sha256"][0])] == list(restored[0].seen)


def test_commit_tells_when_the_place_of_a_partition_moved(tmp_path):
    clock = FixedClock(NOW_US)
    archive = DeltaArchive(tmp_path.as_uri(), {}, clock=clock, was_read=never_read)
    archive.open(a_contract(), TOPIC.topic_id, [0, 1], ids_max=100)
    before, dead = {0: Account(), 1: Account()}, Account(1, dead_by_reason={"EMPTY": 1})
    append(archive, rows(), before, {0: dead, 1: Account(1, repeats=1)})
    clock.advance(1)
    after = {0: dead, 1: Account(2, repeats=2)}
    append(archive, rows(), {0: dead, 1: Account(1, repeats=1)}, after)

    table = DeltaTable(delta_table_uri(tmp_path.as_uri(), "records", a_contract().name))
    moved = [f"ingest|{TOPIC.topic_id}|{number}|accounted_at" for number in (0, 1)]
    assert [NOW_US, NOW_US + 1] == [table.transaction_version(each) for each in moved]


def test_account_without_rows_is_stored_too(world):
    archive, _ = world.open()
    dead = Account(1, dead_by_reason={"EMPTY": 1})
    append(archive, rows(), {0: Account()}, {0: dead})

    assert dead == world.accounts()[0]


def test_second_owner_overtakes_the_first(world):
    first, _ = world.open()
    second, _ = world.open()
    append(second, rows(0), {0: Account()}, {0: Account(1, stored=1, known_time_us=NOW_US)})

    with pytest.raises(Overtaken):
        append(first, rows(0, 1), {0: Account()}, {0: Account(2, 2, known_time_us=NOW_US)})
    _, restored = world.open()
    assert (1, 1) == (len(restored[0].seen), restored[0].account.offset)


def test_owners_of_different_partitions_share_a_table(world):
    first, _ = world.open(0)
    second, _ = world.open(1)
    after = Account(1, stored=1, known_time_us=NOW_US)
    append(second, rows(1, partition=1), {1: Account()}, {1: after})
    append(first, rows(0), {0: Account()}, {0: after})
    append(second, rows(2, partition=1), {1: after}, {1: after.plus(Account(2, stored=1))})

    assert {0: 1, 1: 2} == {n: account.stored for n, account in world.accounts().items()}


def ids_read(world, ids_max):
    return [seen.event_id for seen in world.open(ids_max=ids_max)[1][0].seen]


def test_newest_ids_are_read_up_to_the_cap_whatever_lies_between_them(world):
    archive, _ = world.open()
    many_dead = Account(500, stored=4, dead_by_reason={"EMPTY": 496}, known_time_us=NOW_US)
    append(archive, rows(0, 1, 70, 499), {0: Account()}, {0: many_dead})

    assert ["departed:70", "departed:499"] == ids_read(world, ids_max=2)
    assert ["departed:1", "departed:70", "departed:499"] == ids_read(world, ids_max=3)
    assert 4 == len(ids_read(world, ids_max=5))


def test_old_known_time_takes_its_place_among_the_newest_ids(world):
    archive, _ = world.open()
    old_us = NOW_US - 30 * 86_400_000_000
    old = rows(1, departed_at=old_us, known_at=old_us)
    first, second = (Account(n, stored=n, known_time_us=NOW_US) for n in (1, 2))
    append(archive, rows(0), {0: Account()}, {0: first})
    append(archive, old, {0: first}, {0: second})

    assert ["departed:1"] == ids_read(world, ids_max=1)


def test_topic_made_again_starts_a_new_account_but_knows_the_ids(world):
    archive, _ = world.open()
    append(archive, rows(0), {0: Account()}, {0: FULL})

    _, restored = world.open(topic_id="topic-2")
    assert Account() == restored[0].account


def test_new_column_is_added_and_a_column_that_is_gone_stays_null(world):
    columns = a_contract().stream.model_dump()["columns"]
    wider = a_contract(version=2, columns=columns | {"gate": {"type": "string"}})
    del columns["diverted"]
    narrower = a_contract(version=3, columns=columns)
    accounts = [Account(n, stored=n) for n in range(4)]
    for number, contract in enumerate([a_contract(), wider, narrower]):
        archive, _ = world.open(contract=contract)
        part = rows(number, contract=contract, gate="B7", diverted=True)
        before, after = {0: accounts[number]}, {0: accounts[number + 1]}
        append(archive, part, before, after, contract=contract)

    assert 3 == world.accounts()[0].stored


def test_column_of_another_type_is_refused(make_folder_archive):
    world = World(make_folder_archive)
    world.open()
    columns = a_contract().stream.model_dump()["columns"] | {"clock": {"type": "string"}}

    with pytest.raises(Invalid, match="BAD_DEFINITION"):
        world.open(contract=a_contract(version=2, columns=columns))


def test_reader_finds_typed_columns_and_counters(make_folder_archive, tmp_path):
    archive, _ = World(make_folder_archive).open()
    append(archive, rows(0, 1), {0: Account()}, {0: FULL})

    table = DeltaTable(delta_table_uri(tmp_path.as_uri(), "records", STREAM))
    types = {field.name: field.type.type for field in table.schema().fields}
    assert ("long", "double", "date") == (
        types["departed_at"],
        types["delay"],
        types["_event_date"],
    )
    assert NOW_US == table.transaction_version("ingest|topic-1|0|known_time")
    assert 3 == table.transaction_version("ingest|topic-1|0|dead|BAD_TYPE")


def test_maintenance_keeps_rows_accounts_and_the_fence(make_folder_archive, monkeypatch):
    monkeypatch.setattr(delta_archive, "COMMITS_PER_CHECKPOINT", 3)
    monkeypatch.setattr(delta_archive, "COMMITS_PER_COMPACTION", 6)
    world = World(make_folder_archive)
    archive, _ = world.open()
    accounts = [Account(n, stored=n, known_time_us=NOW_US if n else 0) for n in range(10)]
    for number in range(8):
        append(archive, rows(number), {0: accounts[number]}, {0: accounts[number + 1]})

    other, restored = world.open()
    assert (8, accounts[8]) == (len(restored[0].seen), restored[0].account)
    append(other, rows(8), {0: accounts[8]}, {0: accounts[9]})
    with pytest.raises(Overtaken):
        append(archive, rows(8, 9), {0: accounts[8]}, {0: Account(10, 10, known_time_us=NOW_US)})


def test_maintenance_that_meets_the_commit_of_another_keeps_the_fence(
    make_folder_archive, monkeypatch
):
    """Compacting moves the handle past that commit, and Delta would refuse nothing any more."""
    monkeypatch.setattr(delta_archive, "COMMITS_PER_CHECKPOINT", 2)
    monkeypatch.setattr(delta_archive, "COMMITS_PER_COMPACTION", 2)
    world = World(make_folder_archive)
    archive, _ = world.open()
    accounts = [Account(n, stored=n, known_time_us=NOW_US if n else 0) for n in range(4)]
    append(archive, rows(0), {0: accounts[0]}, {0: accounts[1]})

    def commit_of_another(step):
        if step == "ingest.sink.maintain":
            monkeypatch.setattr(delta_archive, "failpoint", lambda step: None)
            append(world.open()[0], rows(2), {0: accounts[2]}, {0: accounts[3]})

    monkeypatch.setattr(delta_archive, "failpoint", commit_of_another)
    append(archive, rows(1), {0: accounts[1]}, {0: accounts[2]})

    with pytest.raises(Overtaken):
        append(archive, rows(2, 3), {0: accounts[2]}, {0: Account(4, 4, known_time_us=NOW_US)})
    assert 3 == len(world.open()[1][0].seen)


def test_files_of_the_dead_and_old_log_entries_go_and_nothing_else(
    make_folder_archive, tmp_path, monkeypatch
):
    monkeypatch.setattr(delta_archive, "COMMITS_PER_CHECKPOINT", 3)
    world = World(make_folder_archive)
    archive, _ = world.open()
    accounts = [Account(n, stored=n, known_time_us=NOW_US if n else 0) for n in range(5)]
    for number in range(4):
        append(archive, rows(number), {0: accounts[number]}, {0: accounts[number + 1]})
    (table,) = tmp_path.glob("records/*")
    orphans = [next(table.glob("_event_date=*")) / f"{age}.parquet" for age in ("old", "new")]
    for orphan in orphans:
        orphan.write_bytes(b"half")
    aged = [orphans[0], *table.glob("_delta_log/*")]
    for file in aged:
        os.utime(file, (0, time.time() - 40 * 86_400))
    logged = len(aged) - 1

    DeltaTables(tmp_path.as_uri(), {}, was_read=never_read).clean(
        Selection(STREAM, 0, ()), (), keep_h=168
    )

    assert [False, True] == [orphan.exists() for orphan in orphans]
    assert logged > len(list(table.glob("_delta_log/*.json")))
    other, restored = world.open()
    assert (4, accounts[4]) == (len(restored[0].seen), restored[0].account)
    append(other, rows(4), {0: accounts[4]}, {0: Account(5, 5, known_time_us=NOW_US)})


def test_maintenance_that_fails_costs_nothing(make_folder_archive, monkeypatch):
    def away(table):
        raise OSError("the store is away")

    monkeypatch.setattr(delta_archive, "COMMITS_PER_CHECKPOINT", 1)
    monkeypatch.setattr(DeltaTable, "create_checkpoint", away)
    world = World(make_folder_archive)
    archive, _ = world.open()
    accounts = [Account(n, stored=n, known_time_us=NOW_US if n else 0) for n in range(4)]
    for number in range(3):
        append(archive, rows(number), {0: accounts[number]}, {0: accounts[number + 1]})

    _, restored = world.open()
    assert (3, accounts[3]) == (len(restored[0].seen), restored[0].account)


def test_owner_that_slept_through_another_commit_is_refused(make_folder_archive):
    world = World(make_folder_archive)
    zombie, _ = world.open()
    arm("ingest.sink.version_read:1:sleep:0")
    after = Account(1, stored=1, known_time_us=NOW_US)
    append(world.open()[0], rows(0), {0: Account()}, {0: after})
    with pytest.raises(Overtaken):
        append(zombie, rows(0), {0: Account()}, {0: Account(2, 1, 0, 1, known_time_us=NOW_US)})
    arm(None)


@pytest.mark.parametrize("advanced", [False, True])
def test_commit_whose_answer_was_lost_is_stored_once(advanced, make_folder_archive, monkeypatch):
    world = World(make_folder_archive)
    archive, _ = world.open()
    write = delta_archive.write_deltalake

    def write_and_lose(table, part, **options):
        uri = table.table_uri
        write(table if advanced else DeltaTable(uri), part, **options)
        monkeypatch.setattr(delta_archive, "write_deltalake", write)
        raise OSError("the reply was lost")

    monkeypatch.setattr(delta_archive, "write_deltalake", write_and_lose)
    with pytest.raises(Unavailable):
        append(archive, rows(0), {0: Account()}, {0: FULL})
    append(archive, rows(0), {0: Account()}, {0: FULL})

    _, restored = world.open()
    assert (1, FULL) == (len(restored[0].seen), restored[0].account)


def test_commit_that_others_are_before_each_time_is_told_as_such(make_folder_archive, monkeypatch):
    archive, _ = World(make_folder_archive).open()

    def overtaken(*given, **named):
        raise CommitFailedError("version 1 is there already")

    monkeypatch.setattr(delta_archive, "write_deltalake", overtaken)
    with pytest.raises(Unavailable, match="TABLE_CONTENDED"):
        append(archive, rows(0), {0: Account()}, {0: FULL})


def test_rows_that_retention_never_gets_to_remove_are_told_as_such(
    make_folder_archive, tmp_path, monkeypatch
):
    World(make_folder_archive).open()

    def overtaken(*given, **named):
        raise CommitFailedError("a concurrent transaction was committed")

    monkeypatch.setattr(DeltaTable, "delete", overtaken)
    with pytest.raises(Unavailable, match="TABLE_CONTENDED"):
        DeltaTables(tmp_path.as_uri(), {}, was_read=never_read).retire(
            Selection(STREAM, 0, ()), date(2013, 1, 1)
        )


def test_file_that_an_erasure_removes_meanwhile_is_waited_for(make_folder_archive, tmp_path):
    """The table of after the erasure is opened then."""
    archive = make_folder_archive()
    archive.open(a_contract(), TOPIC_ID, (0,), ids_max=100)
    archive.append(a_contract(), rows(0, 1), {0: Account()}, {0: Account(2, 2)})
    for file in tmp_path.rglob("*.parquet"):
        file.unlink()

    with pytest.raises(Unavailable, match="OBJECT_STORE_UNAVAILABLE"):
        make_folder_archive().open(a_contract(), TOPIC_ID, (0,), ids_max=100)


def test_table_that_an_erasure_moves_on_meanwhile_is_opened_as_it_is_then(
    make_folder_archive, tmp_path, monkeypatch
):
    archive = make_folder_archive()
    archive.open(a_contract(), TOPIC_ID, (0,), ids_max=100)
    archive.append(a_contract(), rows(0, 1), {0: Account()}, {0: Account(2, 2)})
    files = [*tmp_path.rglob("*.parquet")]
    read = delta_archive._seen

    def erased_meanwhile(table, *given, **named):
        monkeypatch.setattr(delta_archive, "_seen", read)
        DeltaTable(table.table_uri).delete("event_id = 'departed:0'")
        for file in files:
            file.unlink()
        return read(table, *given, **named)

    monkeypatch.setattr(delta_archive, "_seen", erased_meanwhile)
    restored = make_folder_archive().open(a_contract(), TOPIC_ID, (0,), ids_max=100)

    assert (Account(2, 2), 1) == (restored[0].account, len(restored[0].seen))


def test_store_that_is_away_is_unavailable_soon(tmp_path):
    s3 = S3Settings("http://127.0.0.1:1", "key", SecretStr("secret"))
    archive = DeltaArchive(
        "s3://bucket/x", delta_storage_options("s3://bucket/x", s3), was_read=never_read
    )

    with pytest.raises(Unavailable, match="OBJECT_STORE_UNAVAILABLE"):
        archive.accounts(STREAM, TOPIC)

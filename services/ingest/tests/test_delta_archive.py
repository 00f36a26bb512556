# SPDX-License-Identifier: Apache-2.0
"""An archive that finds no room, or no table where one was, says so, and makes none."""

from __future__ import annotations

import errno
import os

import pytest
from deltalake import DeltaTable

from headrace.errors import NotFound, Unavailable
from headrace_ingest.adapters.delta_archive import DeltaArchive
from headrace_ingest.adapters.delta_tables import DeltaTables
from headrace_ingest.domain.accounts import Account
from headrace_ingest.domain.judging import empty_rows
from headrace_ingest.ports.archive import RawTopic
from headrace_ingest.testing import a_contract, never_read


@pytest.mark.parametrize(
    ("code", "told"), [(errno.ENOSPC, "its disk is full"), (errno.EIO, "flights.departed")]
)
def test_store_without_room_is_told_apart_from_one_that_is_away(tmp_path, monkeypatch, code, told):
    def create(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("headrace_ingest.adapters.delta_archive.DeltaTable.create", create)
    archive = DeltaArchive(tmp_path.as_uri(), {}, was_read=never_read)

    with pytest.raises(Unavailable, match="OBJECT_STORE_UNAVAILABLE") as away:
        archive.open(a_contract(), "topic", {0}, ids_max=1)

    assert told == [*away.value.metadata.values()][-1]


TOPIC = RawTopic("topic", (0,))
STREAM = a_contract().name


def append(archive, offset):
    none = empty_rows(a_contract().stream)
    archive.append(a_contract(), none, {0: Account(offset - 1)}, {0: Account(offset)})


def test_table_is_made_for_a_stream_that_was_never_read(tmp_path):
    archive = DeltaArchive(tmp_path.as_uri(), {}, was_read=never_read)
    assert {} == archive.accounts(STREAM, TOPIC)
    archive.open(a_contract(), "topic", {0}, ids_max=1)

    assert {0: Account()} == archive.accounts(STREAM, TOPIC)


@pytest.mark.parametrize("left", ["", "records/flights.departed/_event_date=2013-01-01"])
def test_table_of_a_stream_that_was_read_is_missed_and_not_made(tmp_path, left):
    """`left`: a folder with files that no log names."""
    (tmp_path / left).mkdir(parents=True, exist_ok=True)
    archive = DeltaArchive(tmp_path.as_uri(), {}, was_read={STREAM}.__contains__)
    with pytest.raises(Unavailable, match="ARCHIVE_MISSING"):
        archive.open(a_contract(), "topic", {0}, ids_max=1)
    with pytest.raises(Unavailable, match="ARCHIVE_MISSING"):
        archive.accounts(STREAM, TOPIC)

    assert not list(tmp_path.rglob("_delta_log"))


def test_table_that_is_taken_away_takes_no_file_and_goes_on_where_it_stood(tmp_path):
    archive = DeltaArchive((tmp_path / "objects").as_uri(), {}, was_read=never_read)
    archive.open(a_contract(), "topic", {0}, ids_max=1)
    append(archive, 1)
    (tmp_path / "objects").rename(tmp_path / "away")
    for _ in range(2):
        with pytest.raises(Unavailable, match="ARCHIVE_MISSING"):
            append(archive, 2)
    assert not (tmp_path / "objects").exists()

    (tmp_path / "away").rename(tmp_path / "objects")
    append(archive, 2)
    assert {0: Account(2)} == archive.accounts(STREAM, TOPIC)


def test_table_whose_log_dropped_the_commit_that_was_read_is_no_missing_one(tmp_path):
    archive, other = (DeltaArchive(tmp_path.as_uri(), {}, was_read=never_read) for _ in range(2))
    archive.open(a_contract(), "topic", {0}, ids_max=1)
    other.open(a_contract(), "another topic", {0}, ids_max=1)
    append(other, 1)
    DeltaTable((tmp_path / "records" / STREAM).as_uri()).create_checkpoint()
    (tmp_path / "records" / STREAM / "_delta_log" / f"{0:020}.json").unlink()

    with pytest.raises(Unavailable, match="OBJECT_STORE_UNAVAILABLE"):
        append(archive, 1)  # delta-rs writes through no such handle
    append(archive, 1)
    assert {0: Account(1)} == archive.accounts(STREAM, TOPIC)


@pytest.mark.parametrize(
    ("read", "kind", "reason"),
    [(True, Unavailable, "ARCHIVE_MISSING"), (False, NotFound, "STREAM_EMPTY")],
)
def test_table_that_is_missing_is_not_called_empty(tmp_path, read, kind, reason):
    tables = DeltaTables(tmp_path.as_uri(), {}, was_read=lambda _: read)

    with pytest.raises(kind, match=reason):
        tables.newest_version(STREAM)

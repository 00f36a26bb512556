# SPDX-License-Identifier: Apache-2.0
"""Files that no version of a table names go after a day; others have their time."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError
from minio import Minio
from pydantic import SecretStr

from headrace_ingest.adapters.delta_tables import DeltaTables
from headrace_ingest.domain.datasets import Selection
from headrace_ingest.handlers.retention import forget_unended
from headrace_ingest.testing import never_read
from headrace_kit import objects as kit_objects
from headrace_kit.objects import S3Settings, delta_table_uri, object_store

pytestmark = pytest.mark.integration

STREAM, KEEP_H = "flights.departed", 168
# Writes more of a file than Delta's storage holds back, and is killed before its end.
KILLED_WRITER = """
import json, os, signal, sys
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from deltalake.fs import DeltaStorageHandler
files = pa.fs.PyFileSystem(DeltaStorageHandler(sys.argv[1], json.loads(sys.argv[2])))
batch = pa.record_batch({"x": np.random.default_rng(0).random(4_000_000)})
with files.open_output_stream("_event_date=2013-01-01/half.parquet") as sink:
    with pq.ParquetWriter(sink, batch.schema) as writer:
        writer.write_batch(batch)
        os.kill(os.getpid(), signal.SIGKILL)
"""


class Table:
    """A stream's table; `folder` is where its files lie on this machine."""

    def __init__(self, place, folder):
        self.uri = delta_table_uri(place.uri, "records", STREAM)
        self.options, self.folder = place.options, folder / "records" / STREAM
        self.tables = DeltaTables(place.uri, place.options, was_read=never_read)

    def open(self):
        return DeltaTable(self.uri, storage_options=self.options)

    def append(self, *numbers):
        rows = pl.DataFrame({"n": list(numbers), "_event_date": [date(2013, 1, 1)] * len(numbers)})
        write_deltalake(
            self.uri,
            rows.to_arrow(),
            mode="append",
            partition_by=["_event_date"],
            storage_options=self.options,
        )

    def numbers(self):
        return sorted(pl.from_arrow(self.open().to_pyarrow_table())["n"])

    def files(self):
        return {file for file in self.folder.glob("_event_date=*/*") if file.is_file()}

    def refused_deletion(self, number, other):
        """The files that it leaves: `other` is deleted first, of the same file."""
        late, before = self.open(), self.files()
        self.open().delete(f"n = {other}")
        there = self.files()
        with pytest.raises(CommitFailedError):
            late.delete(f"n = {number}")
        assert there > before
        return self.files() - there

    def clean(self, *keep):
        self.tables.clean(Selection(STREAM, 0, ()), keep, keep_h=KEEP_H)

    def replaced(self, days):
        """Compacted so long ago, as the files and the log say; returns what was replaced."""
        self.append(1)
        self.append(2)
        old = self.files()
        self.open().optimize.compact()
        age(self.files(), 24 * days + 1)
        moment_ms = int((time.time() - days * 86_400) * 1_000)
        for commit in self.folder.glob("_delta_log/*.json"):
            said = re.sub(r'(?<="deletionTimestamp":)\d+', str(moment_ms), commit.read_text())
            commit.write_text(said)
        self.open().create_checkpoint()
        return old


def age(files, hours):
    for file in files:
        os.utime(file, (0, time.time() - hours * 3_600))


@pytest.fixture(params=["folder", "bucket"])
def anywhere(request, tmp_path):
    place, folder = request.getfixturevalue(request.param), tmp_path
    if request.param == "bucket":
        objects = request.getfixturevalue("s3_server").data_dir / "objects"
        folder = objects / Path(place.uri.removeprefix("s3://"))
    return Table(place, folder)


@pytest.fixture
def objects(request, anywhere, tmp_path):
    """The object store that the table lies in, and what lies there in parts."""
    if anywhere.uri.startswith("file://"):
        return object_store(tmp_path.as_uri(), None), lambda: list(tmp_path.rglob("*#*"))
    server = request.getfixturevalue("s3_server")
    s3 = S3Settings(server.endpoint, server.access_key, SecretStr(server.secret_key))
    uri = anywhere.uri.partition("/records/")[0]
    client = Minio(
        server.endpoint.removeprefix("http://"),
        server.access_key,
        server.secret_key,
        secure=False,
        region=server.region,
    )
    prefix = uri.removeprefix("s3://headrace/") + "/"
    return object_store(
        uri, s3
    ), lambda: client._list_multipart_uploads("headrace", prefix=prefix).uploads


@pytest.fixture
def table(folder, tmp_path):
    return Table(folder, tmp_path)


def test_files_of_a_refused_deletion_go_when_they_are_a_day_old(anywhere):
    anywhere.append(*range(6))
    old = anywhere.refused_deletion(1, 2)
    age(anywhere.files(), 25)
    young = anywhere.refused_deletion(3, 4)
    there = anywhere.files()
    anywhere.clean()

    assert (True, True) == (bool(old), bool(young))
    assert there - old == anywhere.files()
    assert [0, 1, 3, 5] == anywhere.numbers()


@pytest.mark.parametrize(("days", "there"), [(2, True), (6, True), (8, False)])
def test_replaced_files_stay_a_week_for_time_travel(table, days, there):
    old = table.replaced(days)
    table.clean()

    assert (old if there else set()) == old & table.files()
    assert [1, 2] == table.numbers()


@pytest.mark.parametrize(("named", "there"), [((1,), True), ((), False)])
def test_replaced_files_go_at_once_behind_an_erasure_unless_a_dataset_names_them(
    table, named, there
):
    old = table.replaced(days=0)
    table.tables.forget(Selection(STREAM, 0, ()), named)

    assert (old if there else set()) == old & table.files()
    assert [1, 2] == table.numbers()


def test_files_of_a_version_that_a_dataset_names_stay_though_the_log_forgot_them(table):
    old = table.replaced(days=9)
    table.clean(1)

    assert old <= table.files()


def test_file_that_a_killed_writer_did_not_end_goes_a_day_later(anywhere, objects, monkeypatch):
    store, unended = objects
    command = [sys.executable, "-c", KILLED_WRITER, anywhere.uri, json.dumps(anywhere.options)]
    anywhere.append(1)
    subprocess.run(command, check=False)
    assert unended()
    list(forget_unended(60.0, files=store))
    assert unended()
    monkeypatch.setattr(kit_objects, "CUT_PUT_AGE_S_MAX", 0)
    list(forget_unended(60.0, files=store))

    assert not unended()
    assert [1] == anywhere.numbers()

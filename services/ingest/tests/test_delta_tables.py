# SPDX-License-Identifier: Apache-2.0
"""Tables while an erasure works on them: reads of files that it removes end, each with the
documented error, and who follows a table learns that rows were taken out.
"""

import subprocess
import sys
from dataclasses import replace

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from headrace.errors import Conflict
from headrace_ingest.adapters.delta_tables import DeltaTables
from headrace_ingest.adapters.duckdb_rows import DuckDbRows
from headrace_ingest.domain.datasets import Selection
from headrace_ingest.testing import never_read
from headrace_kit.erased_entities import Entity, entity_sha256

# Threads change places within a call, as they seldom do by themselves. Hanging, it ends with 1.
READS = """
import faulthandler, sys
from pathlib import Path
faulthandler.dump_traceback_later(60, exit=True)
from headrace.errors import Conflict
from headrace_ingest.adapters.delta_tables import DeltaTables
from headrace_ingest.adapters.duckdb_rows import DuckDbRows
from headrace_ingest.domain.datasets import Selection
from headrace_ingest.testing import never_read
folder = Path(sys.argv[1])
tables = DeltaTables(folder.as_uri(), {}, was_read=never_read)
rows = DuckDbRows(tables, folder / "spill")
selection = Selection("flights", 9, (("n", "int64"),))
assert rows.filled(selection, timeout_s=60)
for file in folder.rglob("*.parquet"):
    file.unlink()
sys.setswitchinterval(1e-6)
for _ in range(100):
    try:
        rows.filled(selection, timeout_s=60)
    except Conflict as err:
        print(err.reason)
"""


def test_reads_of_files_that_were_removed_all_end_with_the_documented_error(tmp_path):
    uri = (tmp_path / "records" / "flights").as_uri()
    for number in range(10):
        write_deltalake(uri, pa.table({"n": [number]}), mode="append")

    read = subprocess.run(
        [sys.executable, "-c", READS, str(tmp_path)],
        timeout=120,
        check=False,
        capture_output=True,
        text=True,
    )

    assert (0, ["VERSION_EXPIRED"] * 100) == (read.returncode, read.stdout.split()), read.stderr


@pytest.fixture
def table(tmp_path):
    """Of two versions."""
    uri = (tmp_path / "records" / "flights").as_uri()
    for number in range(2):
        write_deltalake(uri, pa.table({"n": [number]}), mode="overwrite")
    return uri


def test_version_beyond_the_newest_is_none_that_the_table_holds(table, tmp_path):
    """As of a table that was lost and begun anew."""
    tables = DeltaTables(tmp_path.as_uri(), {}, was_read=never_read)
    with pytest.raises(Conflict, match="VERSION_EXPIRED"):
        tables.open(Selection("flights", 9, (("n", "int64"),)))


def test_entity_of_a_float64_column_is_found_and_deleted_by_its_digits(tmp_path):
    """Two engines do that, which spell such numbers each in its own way."""
    seats = pa.array([5.0, 1e16, 2.5, 1e-7, None])
    told = {"_event_id": [*"abcde"], "_event_time_us": [1] * 5, "_known_time_us": [1] * 5}
    platform = told | {"_key": [*"abcde"], "_late": [False] * 5}
    write_deltalake(
        (tmp_path / "records" / "flights").as_uri(), pa.table(platform | {"seat": seats})
    )
    tables = DeltaTables(tmp_path.as_uri(), {}, was_read=never_read)
    rows = DuckDbRows(tables, tmp_path / "spill")
    selection, told = Selection("flights", 0, (("seat", "float64"),)), []

    for value, event_id in {"5": "a", "10000000000000000": "b", "2.5": "c"}.items():
        entity = Entity("seat", entity_sha256("seat", value), 1)
        assert 1 == rows.find(selection, entity, timeout_s=60).rows
        told.clear()
        assert 1 == rows.erase(selection, entity, told.append, timeout_s=60)
        assert [event_id] == [each for events in told for each in events.ids]
    assert [1e-7, None] == tables.open(replace(selection, delta_version=3)).to_table()[
        "seat"
    ].to_pylist()


def test_column_that_no_commit_has_brought_holds_no_entity(table, tmp_path):
    tables = DeltaTables(tmp_path.as_uri(), {}, was_read=never_read)
    selection = Selection("flights", 1, (("seat", "float64"),))

    assert 0 == tables.erase(selection, Entity("seat", entity_sha256("seat", "5"), 1))


@pytest.mark.parametrize("work", ["forget", "clean"])
def test_files_go_though_a_dataset_names_a_version_beyond_the_newest(table, tmp_path, work):
    tables = DeltaTables(tmp_path.as_uri(), {}, was_read=never_read)
    selection, hours = Selection("flights", 1, ()), {"clean": {"keep_h": 0}}
    getattr(tables, work)(selection, {9}, **hours.get(work, {}))

    held = {path.rpartition("/")[2] for path in DeltaTable(table).file_uris()}
    assert held == {each.name for each in tmp_path.rglob("*.parquet")}


class TableWithRows:
    """Of three commits; the fourth, version 3, takes a row out."""

    def __init__(self, folder):
        self.uri = (folder / "records" / "flights").as_uri()
        for number in range(3):
            write_deltalake(self.uri, pa.table({"n": [number, 100 + number]}), mode="append")
        DeltaTable(self.uri).delete("n = 1")
        self.tables = DeltaTables(folder.as_uri(), {}, was_read=never_read)

    def vacuum(self):
        DeltaTable(self.uri).vacuum(
            retention_hours=0, dry_run=False, enforce_retention_duration=False
        )

    def removed_since(self, version):
        return self.tables.removed_since(Selection("flights", 3, ()), version)


def test_rows_that_were_taken_out_are_told_to_who_follows_from_before(tmp_path):
    table = TableWithRows(tmp_path)
    table.vacuum()
    DeltaTable(table.uri).optimize.compact()  # writes files anew, and takes no row out

    assert [True, True, False, False] == [table.removed_since(each) for each in (0, 2, 3, 5)]


def test_commit_that_comes_while_it_is_asked_hides_no_rows_that_were_taken_out(
    tmp_path, monkeypatch
):
    table, opened = TableWithRows(tmp_path), DeltaTables._newest

    def open_and_be_overtaken(self, selection):
        found = opened(self, selection)
        table.vacuum()
        return found

    monkeypatch.setattr(DeltaTables, "_newest", open_and_be_overtaken)

    assert table.removed_since(2)


def test_what_the_log_has_forgotten_may_have_taken_rows_out(tmp_path):
    table = TableWithRows(tmp_path)
    write_deltalake(table.uri, pa.table({"n": [7]}), mode="append")
    DeltaTable(table.uri).create_checkpoint()
    assert not table.removed_since(3)

    (tmp_path / "records" / "flights" / "_delta_log" / f"{4:020}.json").unlink()

    assert table.removed_since(3)

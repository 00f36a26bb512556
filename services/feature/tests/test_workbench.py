# SPDX-License-Identifier: Apache-2.0
"""All requests together stay under one cap on disk, and leave nothing of it behind.

A full disk is played by /dev/full, which takes nothing: whoever writes meets the system's ENOSPC.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from feature_world import RECIPE
from test_training_set import LATER, an_ask, an_end, complete

from headrace.errors import Busy
from headrace_feature.adapters import duckdb_workbench
from headrace_feature.adapters.duckdb_workbench import Workbench
from headrace_feature.adapters.memory_archive import MemoryArchive

ROWS = pa.record_batch({"as_of_us": pa.array(range(1_000), pa.int64())})
CAP_BYTES = 20_000


@pytest.fixture
def workbench(tmp_path):
    return Workbench(tmp_path / "bench", disk_bytes_max=CAP_BYTES, observations_max=1)


def test_requests_share_the_room_on_disk(workbench):
    with workbench.opened() as first:
        first.stored([ROWS], ROWS.schema)
        with workbench.opened() as second:
            second.stored([ROWS], ROWS.schema)
            with pytest.raises(Busy, match="QUEUE_FULL"):
                second.scratch(1_000, 1)


def test_room_is_given_back_with_the_files(workbench):
    for _ in range(3):
        with workbench.opened() as bench:
            bench.stored([ROWS], ROWS.schema)
            bench.stored([ROWS], ROWS.schema)
            bench.scratch(1_000, 1)


def test_request_that_no_room_would_hold_is_too_large(workbench):
    with workbench.opened() as bench, pytest.raises(Busy, match="BATCH_TOO_LARGE"):
        bench.stored([ROWS] * 3, ROWS.schema)


@pytest.fixture(scope="module")
def snapshots():
    """Of streams whose join needs some MiB."""
    names = [f"ask-{n}" for n in range(20_000)]
    asks, ends = map(an_ask, names), (an_end(each, id=each) for each in names)
    return MemoryArchive(complete(asks=[*asks], ends=[*ends])).newest({"asks", "ends"})


@pytest.fixture(autouse=True)
def little_memory(monkeypatch):
    """The join spills. Two threads may pin all memory at once, now and then; one never does."""
    monkeypatch.setattr(duckdb_workbench, "DUCKDB_BYTES_MAX", 9 << 20)
    monkeypatch.setattr(duckdb_workbench, "THREADS", 1)


def joined(bench, snapshots):
    return bench.training_rows(RECIPE, ["zone"], snapshots, LATER)


def test_join_that_no_room_would_hold_is_too_large(workbench, snapshots):
    with workbench.opened() as bench, pytest.raises(Busy, match="BATCH_TOO_LARGE"):
        joined(bench, snapshots)


def test_join_that_lacks_what_others_hold_is_to_come_again(workbench, snapshots):
    """Such as rows of a caller that wait for the archive."""
    with workbench.opened() as waiting, workbench.opened() as bench:
        waiting.stored([ROWS], ROWS.schema)
        with pytest.raises(Busy, match="QUEUE_FULL"):
            joined(bench, snapshots)


def test_join_that_was_too_large_gives_its_room_back(workbench, snapshots):
    with workbench.opened() as bench:
        for _ in range(3):
            with pytest.raises(Busy, match="BATCH_TOO_LARGE"):
                joined(bench, snapshots)
        bench.scratch(CAP_BYTES // 8, 1)


def test_join_that_has_room_to_spill_is_whole(tmp_path, snapshots):
    workbench = Workbench(tmp_path / "large", disk_bytes_max=1 << 30, observations_max=1)
    with workbench.opened() as bench:
        assert 20_000 == joined(bench, snapshots).count


def on_full_disk(tmp_path, name):
    """What an opened bench writes to the file of this name finds no room."""
    [own] = (tmp_path / "bench").iterdir()
    (own / name).symlink_to("/dev/full")


def test_rows_on_a_full_disk_are_to_come_again(tmp_path, workbench):
    with workbench.opened() as bench:
        on_full_disk(tmp_path, "rows.arrow")
        with pytest.raises(Busy, match=r"DISK_FULL.*rows\.arrow"):
            bench.stored([ROWS], ROWS.schema)


def test_answers_on_a_full_disk_are_to_come_again(tmp_path, workbench):
    with workbench.opened() as bench:
        on_full_disk(tmp_path, "answers")
        scratch = bench.scratch(1_000, 1)
        for rows in (1, 1_000):  # less than Python buffers, and more
            with pytest.raises(Busy, match=r"DISK_FULL.*answers"):
                scratch.write(0, np.zeros((rows, 1)))


def test_join_on_a_full_disk_is_to_come_again(workbench, snapshots, monkeypatch):
    """DuckDB's own error, of what it writes itself."""
    query = "COPY (SELECT 1) TO '/dev/full' (FORMAT csv, USE_TMP_FILE false)"
    monkeypatch.setattr(duckdb_workbench, "training_rows_sql", lambda *_, **__: query)

    with workbench.opened() as bench, pytest.raises(Busy, match=r"DISK_FULL.*duckdb"):
        joined(bench, snapshots)


def test_request_on_a_full_disk_has_no_bench(workbench, monkeypatch):
    def no_room(**_):
        return Path("/dev/full").write_bytes(b"x")

    monkeypatch.setattr(duckdb_workbench.tempfile, "TemporaryDirectory", no_room)

    with pytest.raises(Busy, match=r"DISK_FULL.*bench"), workbench.opened():
        pass

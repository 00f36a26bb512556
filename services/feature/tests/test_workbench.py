# SPDX-License-Identifier: Apache-2.0
"""All requests together stay under one cap on disk, and leave nothing of it behind."""

import pyarrow as pa
import pytest

from headrace.errors import Busy
from headrace_feature.adapters.duckdb_workbench import Workbench

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

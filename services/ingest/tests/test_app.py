# SPDX-License-Identifier: Apache-2.0
"""What the wiring alone decides."""

from __future__ import annotations

import polars as pl
import pytest

from headrace.errors import Busy
from headrace_ingest.adapters.duckdb_work import WORKS_MAX
from headrace_ingest.app import Shared, _datasets
from headrace_ingest.domain.datasets import Selection
from headrace_ingest.settings import IngestSettings
from headrace_ingest.testing import NoTasks
from headrace_kit.erased_entities import Entity

STREAM = "flights.departed"


def test_erasures_and_texts_have_a_place_beside_all_works_on_datasets(tmp_path):
    settings = IngestSettings(object_store_uri=tmp_path.as_uri(), data_dir=tmp_path)
    shared = Shared.of(settings, on_streams=lambda _: None, on_labels=lambda: None)
    rows = pl.DataFrame({"_event_id": ["a"], "_known_time_us": [1], "flight": ["UA1"]})
    rows.write_delta(str(tmp_path / "records" / STREAM))
    made, selection = _datasets(shared, NoTasks()), Selection(STREAM, 0, (("flight", "string"),))
    reading = [made.rows.read(selection, ("flight",), timeout_s=60.0) for _ in range(WORKS_MAX)]
    for each in reading:
        next(each)

    with pytest.raises(Busy, match="QUEUE_FULL"):
        made.rows.filled(selection, timeout_s=60.0)
    assert 0 == made.eraser.rows.find(selection, Entity("flight", "", 1), timeout_s=60.0).rows
    assert made.texts.rows.filled(selection, timeout_s=60.0)
    for each in reading:
        each.close()
    made.engine.dispose()

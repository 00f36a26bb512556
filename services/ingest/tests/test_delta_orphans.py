# SPDX-License-Identifier: Apache-2.0
"""How many files a step removes; which ones is in tests/integration/test_ingest_orphans.py."""

from __future__ import annotations

from headrace_ingest.adapters import delta_orphans
from headrace_ingest.adapters.delta_tables import DeltaTables
from headrace_ingest.testing import never_read


def test_table_of_many_files_goes_by_steps_and_is_named_until_then(tmp_path, monkeypatch):
    monkeypatch.setattr(delta_orphans, "FILES_MAX", 2)
    folder = tmp_path / "dataset-rows" / "held" / "1"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.parquet").touch()
    tables = DeltaTables(tmp_path.as_uri(), {}, was_read=never_read)

    for left in (1, 0):
        assert {"held/1"} == tables.copies()
        tables.drop("held/1")
        assert left == len(list(folder.iterdir()))
    assert set() == tables.copies()

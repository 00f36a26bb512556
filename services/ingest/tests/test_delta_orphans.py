# SPDX-License-Identifier: Apache-2.0
"""How many files a step removes; which ones is in tests/integration/test_ingest_orphans.py."""

from __future__ import annotations

import pytest

from headrace_ingest.adapters import delta_orphans
from headrace_ingest.adapters.delta_tables import DeltaTables
from headrace_ingest.domain.dataset_copies import ABANDONED_US, abandoned
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


def test_table_of_a_version_before_goes_without_those_below_it(tmp_path):
    folder, used = tmp_path / "dataset-rows" / "held" / "1", f"12-{'0' * 16}"
    (folder / used).mkdir(parents=True)
    for path in ("old.parquet", f"{used}/new.parquet"):
        (folder / path).touch()
    tables = DeltaTables(tmp_path.as_uri(), {}, was_read=never_read)
    assert {"held/1", f"held/1/{used}"} == tables.copies()
    tables.drop("held/1")

    assert {f"held/1/{used}"} == tables.copies()


@pytest.mark.parametrize(
    ("copy", "used", "gone"),
    [
        ("held/1", f"held/1/12-{'0' * 16}", True),
        ("held/1", "held/1", False),
        ("held/1", "", False),
        (f"held/1/12-{'0' * 16}", "", True),
        (f"held/1/{ABANDONED_US}-{'0' * 16}", "", False),
        (f"held/1/12-{'0' * 16}", f"held/1/12-{'0' * 16}", False),
    ],
)
def test_table_that_no_manifest_names_is_abandoned_a_day_after_it_was_begun(copy, used, gone):
    assert gone == abandoned(copy, used, ABANDONED_US + 100)

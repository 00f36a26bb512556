# SPDX-License-Identifier: Apache-2.0
"""Records of the archive, whatever its files lack."""

import pytest
from feature_lake import STREAM, Lake
from feature_world import START, Event, a_bench, a_catalogue, a_view

from headrace.errors import HeadraceError, Unavailable

VIEW = a_view({"riders_1h": {"aggregate": "count", "window": "1h"}}, entity=("zone", "driver"))


def drivers_of(lake):
    """As the archive answers them, in the order of their events."""
    (layout,) = a_catalogue(VIEW).layouts().values()
    history = lake.archive.history(STREAM, lake.raw_topic(STREAM))
    records = history.snapshot.records(layout, START + 10)
    texts = records.columns["driver"]
    named = [texts.values[code] if code >= 0 else None for code in texts.codes.tolist()]
    return [named[place] for place in records.event_us.argsort()]


def test_file_without_any_text_of_a_column_stands_beside_others(tmp_path):
    lake = Lake(tmp_path)
    for moment, driver in enumerate(["ann", None, "bob", None, "ann"]):
        lake.publish([Event(f"ride-{moment}", START + moment, START + moment, driver=driver)])
        lake.store()

    assert ["ann", None, "bob", None, "ann"] == drivers_of(lake)


def test_archive_without_any_text_of_a_column_has_none(tmp_path):
    lake = Lake(tmp_path)
    lake.publish([Event(f"ride-{n}", START + n, START + n) for n in range(2)])
    lake.store()

    assert [None, None] == drivers_of(lake)


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (lambda archive: archive.at({STREAM: 0}), "ARCHIVE_VERSION_UNKNOWN"),
        (lambda archive: archive.newest([STREAM]), "TABLE_CONTENDED"),
    ],
    ids=["named by a manifest", "newest when it was asked for"],
)
def test_version_whose_files_an_erasure_removed_is_told(question, reason, tmp_path):
    lake = Lake(tmp_path)
    for moment in range(3):
        lake.publish([Event(f"ride-{moment}", START + moment, START + moment)])
        lake.store(1)
    snapshot = question(lake.archive)[STREAM]
    lake.compact_and_vacuum()
    (layout,) = a_catalogue(VIEW).layouts().values()

    for read in (lambda s: s.records(layout, START + 10), lambda s: s.between(0, START + 10)):
        with pytest.raises(HeadraceError, match=reason):
            read(snapshot)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda file: file.unlink(), "TABLE_CONTENDED"),
        (lambda file: (file.unlink(), file.mkdir()), "OBJECT_STORE_UNAVAILABLE"),
    ],
    ids=["gone", "unreadable"],
)
def test_file_that_cannot_be_read_amid_a_join_is_told(harm, reason, tmp_path):
    lake = Lake(tmp_path)
    lake.publish([Event("ride", START, START)])
    lake.store()
    snapshots = lake.archive.newest([STREAM])
    (layout,) = a_catalogue(VIEW).layouts().values()
    for file in list(lake.table.rglob("*.parquet")):
        harm(file)

    with a_bench() as bench, pytest.raises(Unavailable, match=reason):
        bench.view_rows(layout, snapshots[STREAM], 0, START + 10, rows_max=10)

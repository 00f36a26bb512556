# SPDX-License-Identifier: Apache-2.0
"""The job of deploy/spark on a Delta archive: what it reads, of which version, what it writes."""

import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archived_tables import STREAMS, questions, rides
from deltalake import DeltaTable, write_deltalake
from feature_world import HOUR, MINUTE, START, Event, a_view

from headrace.view_sql import feature_rows_job, feature_rows_sql

pytestmark = [pytest.mark.spark, pytest.mark.timeout(3_600)]

VIEW = a_view(
    {
        "count": {"aggregate": "count", "window": "1h"},
        "fares": {"aggregate": "sum", "column": "fare", "window": "3h"},
        "driver": {"aggregate": "distinct", "column": "driver", "window": "3h"},
    }
)
EVENTS = [
    Event(f"e{number}", START + number * MINUTE, START + number * MINUTE, zone=zone, fare=0.1)
    for number in range(60)
    for zone in ("a", "b")
]
ROWS = [(zone, 1, START + half * HOUR // 2) for half in range(4) for zone in ("a", "b", "c")]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two versions; the archive has no column `driver` yet."""
    told = rides(EVENTS).drop_columns(["driver"])
    for part in (told.slice(0, 40), told.slice(40)):
        write_deltalake(tmp_path / "records/rides", part, mode="append")
    return tmp_path


def files_of(archive: Path, version: int) -> dict[str, list[str]]:
    return {"rides": DeltaTable(archive / "records/rides", version=version).file_uris()}


def submitted(spark, files: dict[str, list[str]], *rows: str) -> pa.Table:
    job, listing, output = (spark.new_folder() for _ in range(3))
    job.write_text(json.dumps(feature_rows_job(VIEW, STREAMS)))
    listing.write_text(json.dumps(files))
    spark.submit(str(job), "--files", str(listing), *rows, "--output", str(output))
    return pq.read_table(output)


def by_duckdb(records: pa.Table, rows: list) -> list[dict]:
    with duckdb.connect() as connection:
        connection.register("records_rides", records)
        connection.register("entity_rows", questions(rows))
        found = connection.sql(feature_rows_sql(VIEW, STREAMS, "duckdb")).to_arrow_table()
    return in_order(found)


def in_order(found: pa.Table) -> list[dict]:
    return found.sort_by([("zone", "ascending"), ("as_of_us", "ascending")]).to_pylist()


def test_job_answers_entity_rows_from_one_version_of_the_archive(spark, archive):
    rows = spark.write(questions(ROWS))
    made = submitted(spark, files_of(archive, 0), "--entity-rows", rows)

    expected = rides(EVENTS[:40])
    assert by_duckdb(expected, ROWS) == in_order(made)
    assert ["zone", "as_of_us", "count", "fares", "driver"] == made.schema.names


def test_job_answers_every_entity_at_every_moment_of_a_grid(spark, archive):
    grid = ("2013-01-01T00:26:40Z", "2013-01-01T02:26:40Z", "3600")
    made = submitted(spark, files_of(archive, 1), "--grid", *grid)

    asked = [(zone, 1, START + hour * HOUR) for hour in range(3) for zone in ("a", "b")]
    assert by_duckdb(rides(EVENTS), asked) == in_order(made)

# SPDX-License-Identifier: Apache-2.0
"""`headrace views` prints a view's query and the job for Spark, or says what is wrong."""

import json
from pathlib import Path

from typer.testing import CliRunner

from headrace.cli import views
from headrace.cli.main import app
from headrace.feature.v1 import feature_service_pb2 as pb

FLIGHTS = str(Path(__file__).parents[3] / "examples/flights")


def run(*arguments: str):
    return CliRunner().invoke(app, ["views", *arguments])


def test_sql_is_spelled_for_spark_unless_another_dialect_is_asked_for():
    spark = run("sql", FLIGHTS, "origin-departures").stdout
    duckdb = run("sql", FLIGHTS, "origin-departures", "--dialect", "duckdb").stdout

    assert "FROM `records_flights_departed`" in spark
    assert 'FROM "records_flights_departed"' in duckdb


def test_job_says_what_it_reads_and_leaves_out_what_became_known_later():
    job = json.loads(
        run("job", FLIGHTS, "origin-departures", "--known-as-of", "2013-03-01T00:00:00Z").stdout
    )

    assert {"origin": "STRING"} == job["entity"]
    assert "flights.departed" == job["tables"]["records_flights_departed"]["stream"]
    assert "`_known_time_us` <= 1362096000000000" in job["sql"]


def test_view_that_the_folder_has_not_is_told():
    ended = run("sql", FLIGHTS, "departures-of-nowhere")

    assert 1 == ended.exit_code
    assert "DEFINITION_UNKNOWN" in ended.stderr


class Platform:
    """A view that is ready, one that is being filled, and one that has just begun."""

    def view_states(self):
        half = pb.Filling(files=200, files_done=100, rows=1_234_567, files_per_s=0.5)
        begun = pb.Filling(files=10)
        return [
            pb.ViewState(view="old", status=pb.VIEW_STATUS_READY),
            pb.ViewState(view="half", status=pb.VIEW_STATUS_FILLING, filling=half),
            pb.ViewState(view="new", status=pb.VIEW_STATUS_FILLING, filling=begun),
        ]


def test_list_says_how_far_a_view_is_filled_and_how_long_it_may_take(monkeypatch):
    monkeypatch.setattr(views, "connect", lambda data_dir: Platform())
    monkeypatch.setenv("COLUMNS", "160")
    ready, half, begun = run("list").stdout.splitlines()[3:6]

    assert "READY" in ready
    for text in ("FILLING", "50%, 100 of 200 files", "1,234,567", "about 0:03:20"):
        assert text in half
    assert "0%, 0 of 10 files" in begun
    assert "not known yet" in begun

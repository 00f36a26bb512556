# SPDX-License-Identifier: Apache-2.0
"""`headrace views` prints a view's query and the job for Spark, or says what is wrong."""

import json
from pathlib import Path

from typer.testing import CliRunner

from headrace.cli.main import app

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

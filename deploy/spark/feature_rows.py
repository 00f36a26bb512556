# SPDX-License-Identifier: Apache-2.0
"""Feature rows of a view by Spark: `spark-submit feature_rows.py JOB --archive ... --output ...`.

It runs a job that `headrace views job` printed and needs nothing but PySpark: the query is in the
job, and so are the types of all that it reads. README.md beside this file says what is read and
written.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812, as Spark's own documents call it

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)  # noqa: UP017, Spark's images have older Pythons


def main(arguments: list[str]) -> None:
    options = _options(arguments)
    job = json.loads(Path(options.job).read_text(encoding="utf-8"))
    spark = SparkSession.builder.appName(f"headrace {job['view']}").getOrCreate()
    # A query is deep: Spark resolves its names layer by layer and would give up after 100 rounds.
    spark.conf.set("spark.sql.analyzer.maxIterations", "1000")
    for table, read in job["tables"].items():
        frame = _records(spark, read["stream"], options)
        _typed(frame, read["columns"]).createOrReplaceTempView(table)
    _entity_rows(spark, job, options).createOrReplaceTempView("entity_rows")
    spark.sql(job["sql"]).write.parquet(options.output)
    written = spark.read.parquet(options.output).count()
    sys.stdout.write(json.dumps({"view": job["view"], "rows": written}) + "\n")


def _records(spark: SparkSession, stream: str, options: argparse.Namespace) -> DataFrame:
    """A stream's archive: the Delta table, or the files of one version of it."""
    if options.files:
        files = json.loads(Path(options.files).read_text(encoding="utf-8"))
        return spark.read.parquet(*files[stream])
    reader = spark.read.format("delta")
    for pinned in options.version:
        name, _, version = pinned.rpartition("=")
        if name == stream:
            reader = reader.option("versionAsOf", version)
    return reader.load(f"{options.archive.rstrip('/')}/records/{stream}")


def _typed(frame: DataFrame, types: dict[str, str]) -> DataFrame:
    """The contract's columns; one that the archive does not have yet is absent."""
    present = set(frame.columns)
    return frame.select(
        *(
            (F.col(f"`{name}`") if name in present else F.lit(None)).cast(kind).alias(name)
            for name, kind in types.items()
        )
    )


def _entity_rows(
    spark: SparkSession, job: dict[str, Any], options: argparse.Namespace
) -> DataFrame:
    """The caller's rows, or each entity of the view's stream at each moment of a grid."""
    types = {**job["entity"], "as_of_us": "BIGINT"}
    if options.entity_rows:
        return _typed(spark.read.parquet(options.entity_rows), types)
    first, last, step = options.grid
    moments = F.sequence(
        *(F.lit(each).cast("BIGINT") for each in (_us(first), _us(last), int(step) * 1_000_000))
    )
    table = next(name for name, read in job["tables"].items() if read["stream"] == job["stream"])
    entities = spark.table(table).select(*job["entity"]).distinct()
    return entities.withColumn("as_of_us", F.explode(moments))


def _us(text: str) -> int:
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if moment.tzinfo is None:
        raise SystemExit(f"{text} says no time zone: 2013-03-01T09:15:00Z, or +01:00")
    return (moment - EPOCH) // timedelta(microseconds=1)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", help="what `headrace views job` printed")
    records = parser.add_mutually_exclusive_group(required=True)
    records.add_argument("--archive", help="the folder of records/<stream>, such as s3a://headrace")
    records.add_argument("--files", help="JSON: by stream, the Parquet files of one Delta version")
    parser.add_argument(
        "--version", action="append", default=[], metavar="STREAM=N", help="pins a Delta version"
    )
    rows = parser.add_mutually_exclusive_group(required=True)
    rows.add_argument("--entity-rows", help="Parquet with the entity's columns and as_of_us")
    rows.add_argument("--grid", nargs=3, metavar=("FIRST", "LAST", "STEP_S"), help="moments")
    parser.add_argument("--output", required=True, help="a folder that is not there yet")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])

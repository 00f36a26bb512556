# SPDX-License-Identifier: Apache-2.0
"""One Spark session for all tests, in Spark's own environment: a task a line in, a word a line out.

A task is the arguments of the job that is deployed, or a query over Parquet files. One that fails
ends the process: the log says why.
"""

import importlib.util
import json
import sys
from pathlib import Path

from pyspark.sql import SparkSession

JOB = Path(__file__).parents[2] / "deploy/spark/feature_rows.py"
LOCAL = {
    "spark.master": "local[2]",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.memory": "1g",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.shuffle.partitions": "2",
    "spark.sql.analyzer.maxIterations": "1000",  # as the job sets it
    # Of small data the plans cost more than the rows.
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.codegen.wholeStage": "false",
}


def run(task: dict) -> None:
    if "arguments" in task:
        job.main(task["arguments"])
        return
    for name, file in task["tables"].items():
        spark.read.parquet(file).createOrReplaceTempView(name)
    spark.sql(task["sql"]).coalesce(1).write.parquet(task["output"])


spec = importlib.util.spec_from_file_location("feature_rows", JOB)
job = importlib.util.module_from_spec(spec)
spec.loader.exec_module(job)
builder = SparkSession.builder
for key, value in {**LOCAL, "spark.sql.warehouse.dir": sys.argv[1]}.items():
    builder = builder.config(key, value)
spark = builder.getOrCreate()
sys.stdout.write("ready\n")
sys.stdout.flush()
for line in sys.stdin:
    run(json.loads(line))
    sys.stdout.write("done\n")
    sys.stdout.flush()

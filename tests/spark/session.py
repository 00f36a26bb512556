# SPDX-License-Identifier: Apache-2.0
"""Spark in an environment of its own, made once, and the process that runs the tests' tasks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headrace.local.java import find_java
from headrace.local.tools import ToolCache

ROOT = Path(__file__).parents[2]
LOCKS = [ROOT / "requirements" / name for name in ("spark-build.lock", "spark.lock")]
NAME = "pyspark-4.3.0"
INSTALL_TIMEOUT_S = 840
# Spark asks for a module that small runtimes lack; it only speeds up what is not tested here.
JAVA = """#!/bin/sh
for argument; do
  shift
  [ "$argument" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$argument"
done
exec '{java}' "$@"
"""


def provide_pyspark(cache: ToolCache) -> Path:
    """The Python that has PySpark; 456 MB are downloaded for it, once."""
    return cache.provide(NAME, lambda folder: _install(folder, cache)) / "bin/python"


def _install(folder: Path, cache: ToolCache) -> None:
    """Its package is a source archive: what builds it is pinned and there before."""
    cache.progress(f"{NAME}: installing, once")
    uv = [sys.executable, "-m", "uv"]
    python = folder / "bin/python"
    commands = [
        [*uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(folder)]
    ]
    commands += [
        [
            *(*uv, "pip", "install", "--quiet", "--no-cache", "--no-build-isolation"),
            *("--python", str(python), "--require-hashes", "-r", str(lock)),
        ]
        for lock in LOCKS
    ]
    for command in commands:
        subprocess.run(command, check=True, timeout=INSTALL_TIMEOUT_S)


class SparkProcess:
    """Runs one task after the other; `folder` is for what they read and write."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.folder, self._count = folder, 0
        java = folder / "java/bin/java"
        java.parent.mkdir(parents=True)
        java.write_text(JAVA.format(java=find_java().path.resolve()))
        java.chmod(0o755)
        self._log = (folder / "spark.log").open("w")
        environment = {
            "JAVA_HOME": str(java.parents[1]),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_LOCAL_DIRS": str(folder / "local"),
            "PATH": "/usr/bin:/bin",
        }
        runner = Path(__file__).with_name("runner.py")
        self._process = subprocess.Popen(
            [python, runner, folder / "warehouse"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=folder,
            env=environment,
        )
        self._answer("ready")

    def query(self, sql: str, **tables: pa.Table) -> pa.Table:
        """The query's rows, in any order."""
        output = self.new_folder()
        files = {name: self.write(table) for name, table in tables.items()}
        self._run({"sql": sql, "tables": files, "output": str(output)})
        return pq.read_table(output)

    def submit(self, *arguments: str) -> None:
        """Runs the deployed job."""
        self._run({"arguments": arguments})

    def write(self, table: pa.Table) -> str:
        file = self.new_folder().with_suffix(".parquet")
        pq.write_table(table, file)
        return str(file)

    def new_folder(self) -> Path:
        """One that is not there yet."""
        self._count += 1
        return self.folder / f"made-{self._count}"

    def close(self) -> None:
        """Spark ends with its input."""
        self._process.communicate()
        self._log.close()

    def _run(self, task: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        self._answer("done")

    def _answer(self, expected: str) -> None:
        """Lines of the job itself are passed over."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == expected:
                return
        raise AssertionError("\n".join(self._causes()))

    def _causes(self) -> list[str]:
        """What the log says, without the places in Spark's code."""
        lines = (self.folder / "spark.log").read_text().splitlines()
        return [line for line in lines if not line.lstrip().startswith("at ")][-40:]

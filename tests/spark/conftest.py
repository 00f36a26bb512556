# SPDX-License-Identifier: Apache-2.0
"""The one Spark session, and what the tests of the feature service and of expressions draw."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.spark.session import SparkProcess, provide_pyspark

from headrace.local.tools import ToolCache

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("services/feature/tests", "libs/kit/tests")]


@pytest.fixture(scope="session")
def spark(
    tool_cache: ToolCache, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SparkProcess]:
    process = SparkProcess(provide_pyspark(tool_cache), tmp_path_factory.mktemp("spark"))
    yield process
    process.close()

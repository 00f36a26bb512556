# SPDX-License-Identifier: Apache-2.0
"""What the stories share: the tools, and the run in which nothing goes wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flights_example.testing import Onlooker, a_platform, run_small
from headrace.local.tools import ToolCache

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def cache() -> ToolCache:
    return ToolCache(ROOT / ".headrace/tools")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, cache: ToolCache) -> dict[str, Any]:
    """The account of the small plan when nothing goes wrong."""
    with a_platform(tmp_path_factory.mktemp("undisturbed"), cache) as platform:
        return run_small(platform, Onlooker())

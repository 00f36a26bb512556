# SPDX-License-Identifier: Apache-2.0
"""A world for each fault: its own broker, ingest and feature."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.faults.world import Service, World

from headrace.local.tools import ToolCache


@pytest.fixture
def world(tmp_path, tool_cache: ToolCache) -> Iterator[World]:
    made = World(tmp_path, tool_cache)
    made.start()
    yield made
    made.close()


@pytest.fixture
def ingest(world: World) -> Service:
    return world.service("ingest")


@pytest.fixture
def feature(world: World) -> Service:
    return world.service("feature")

# SPDX-License-Identifier: Apache-2.0
"""A world for each fault: its own broker, ingest and feature."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from tests.faults.proxies import Proxy
from tests.faults.world import Service, World

from headrace.local.ports import pick_ports
from headrace.local.tools import ToolCache
from headrace_kit.objects import S3Settings, delta_storage_options


@pytest.fixture
def world(tmp_path, tool_cache: ToolCache) -> Iterator[World]:
    made = World(tmp_path, tool_cache)
    made.start()
    yield made
    made.close()


@pytest.fixture
def s3_proxy(world: World, s3_server) -> Iterator[Proxy]:
    """The world's object store is S3, behind a proxy."""
    (port,) = pick_ports(1)
    proxy = Proxy(port, int(s3_server.endpoint.rsplit(":", 1)[1]), kafka=False)
    proxy.start()
    world.object_store_uri = f"s3://headrace/{uuid.uuid4().hex}"
    world.store_settings = {
        "S3_ENDPOINT": f"http://127.0.0.1:{port}",
        "S3_ACCESS_KEY": s3_server.access_key,
        "S3_SECRET_KEY": s3_server.secret_key,
    }
    world.s3 = S3Settings(s3_server.endpoint, s3_server.access_key, SecretStr(s3_server.secret_key))
    world.store_options = delta_storage_options(world.object_store_uri, world.s3)
    yield proxy
    world.close_services()
    proxy.stop()


@pytest.fixture
def ingest(world: World) -> Service:
    return world.service("ingest")


@pytest.fixture
def feature(world: World) -> Service:
    return world.service("feature")

# SPDX-License-Identifier: Apache-2.0
"""A world for each fault: its own broker, ingest and feature."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import numpy as np
import pytest
from pydantic import SecretStr
from tests.faults.proxies import Proxy
from tests.faults.world import Service, World

from headrace.local.ports import pick_ports
from headrace.local.tools import ToolCache
from headrace_kit.objects import S3Settings, delta_storage_options

SETTLED = "settled_s"


@pytest.fixture
def world(tmp_path, tool_cache: ToolCache, quick_kafka, record_property) -> Iterator[World]:
    made = World(tmp_path, tool_cache, kafka_options=quick_kafka)
    made.start()
    yield made
    made.close()
    if made.settled_s:
        record_property(SETTLED, made.settled_s[-1])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How soon all was read after the fault of each test: for people, no test asserts it."""
    ended = [each for each in terminalreporter.getreports("") if each.when == "teardown"]
    by_test = {each.nodeid: dict(each.user_properties).get(SETTLED) for each in ended}
    found = sorted(seconds for seconds in by_test.values() if seconds is not None)
    if found:
        terminalreporter.section("from the end of the load behind a fault to no lag")
        p50, p95 = np.quantile(found, [0.5, 0.95])
        say = terminalreporter.write_line
        say(f"{len(found)} tests: p50 {p50:.1f} s, p95 {p95:.1f} s, at most {found[-1]:.1f} s")
        for nodeid, seconds in sorted(by_test.items(), key=lambda each: -(each[1] or 0))[:5]:
            say(f"{seconds or 0:6.1f} s  {nodeid}")


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

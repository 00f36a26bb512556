# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin: real servers for tests, one of each per session, started at first use.

Load it with `-p headrace.local.pytest_servers`. Tools come from the repository's `.headrace/tools`;
ports and data are the session's own, so that sessions beside each other do not meet.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.local.gotools import provide_helm
from headrace.local.java import find_java
from headrace.local.kafka import KafkaBroker, provide_jars
from headrace.local.objectstore import S3Server, provide_versitygw
from headrace.local.ports import pick_ports
from headrace.local.postgres import PostgresServer
from headrace.local.process import running
from headrace.local.quick_kafka import provide_quick_options
from headrace.local.tools import ToolCache


def pytest_collection_finish(session: pytest.Session) -> None:
    """Downloads and builds what the tests will need, before the time limit of any test runs."""
    if session.config.option.collectonly:
        return
    fixtures = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    if "quick_kafka" in fixtures:
        _quick_kafka(_tool_cache(session.config))
    if "s3_server" in fixtures:
        provide_versitygw(_tool_cache(session.config))
    if "helm" in fixtures:
        provide_helm(_tool_cache(session.config))


@pytest.fixture(scope="session")
def tool_cache(pytestconfig: pytest.Config) -> ToolCache:
    """The repository's tools."""
    return _tool_cache(pytestconfig)


def _tool_cache(config: pytest.Config) -> ToolCache:
    root = config.rootpath
    repository = next((up for up in (root, *root.parents) if (up / ".git").exists()), root)
    return ToolCache(repository / ".headrace/tools", progress=_say)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


@pytest.fixture(scope="session")
def server_dir() -> Iterator[Path]:
    """A folder for the servers' data; in /tmp itself, where other accounts may enter."""
    path = Path(tempfile.mkdtemp(prefix="headrace-servers-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def quick_kafka(tool_cache: ToolCache) -> tuple[str, ...]:
    """`KafkaBroker.options` of a broker that lives as long as a test or a session."""
    return _quick_kafka(tool_cache)


def _quick_kafka(cache: ToolCache) -> tuple[str, ...]:
    return provide_quick_options(cache, find_java(), provide_jars(cache))


@pytest.fixture(scope="session")
def kafka_server(
    tool_cache: ToolCache, server_dir: Path, quick_kafka: tuple[str, ...]
) -> Iterator[str]:
    """The bootstrap address of a Kafka broker."""
    jars, (port, controller_port) = provide_jars(tool_cache), pick_ports(2)
    broker = KafkaBroker(
        server_dir / "kafka", port, controller_port, find_java(), jars, options=quick_kafka
    )
    with running(broker.process(), server_dir):
        yield broker.bootstrap


@pytest.fixture(scope="session")
def postgres_server(server_dir: Path) -> Iterator[str]:
    """The DSN (`postgresql://...`) of a PostgreSQL superuser's database."""
    (port,) = pick_ports(1)
    server = PostgresServer(server_dir / "postgres", port)
    with running(server.process(), server_dir):
        yield server.dsn


@pytest.fixture(scope="session")
def s3_server(tool_cache: ToolCache, server_dir: Path) -> Iterator[S3Server]:
    """An S3 server that has a bucket named `headrace`: endpoint, access_key, secret_key, region."""
    (port,) = pick_ports(1)
    server = S3Server(server_dir / "s3", port, provide_versitygw(tool_cache))
    with running(server.process(), server_dir):
        server.make_bucket("headrace")
        yield server


@pytest.fixture(scope="session")
def helm(tool_cache: ToolCache) -> Path:
    """The helm program."""
    return provide_helm(tool_cache)

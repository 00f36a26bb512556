# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin: real servers for tests, one of each per session, started at first use.

Load it with `-p headrace.local.pytest_servers`. Tools come from the repository's `.headrace/tools`;
ports and data are the session's own, so that sessions beside each other do not meet.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.local.java import find_java
from headrace.local.kafka import KafkaBroker, provide_jars
from headrace.local.ports import pick_ports
from headrace.local.process import running
from headrace.local.tools import ToolCache


@pytest.fixture(scope="session")
def tool_cache(pytestconfig: pytest.Config) -> ToolCache:
    """The repository's tools."""
    root = pytestconfig.rootpath
    repository = next((up for up in (root, *root.parents) if (up / ".git").exists()), root)
    return ToolCache(repository / ".headrace/tools")


@pytest.fixture(scope="session")
def server_dir() -> Iterator[Path]:
    """A folder for the servers' data; in /tmp itself, where other accounts may enter."""
    path = Path(tempfile.mkdtemp(prefix="headrace-servers-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def kafka_server(tool_cache: ToolCache, server_dir: Path) -> Iterator[str]:
    """The bootstrap address of a Kafka broker."""
    port, controller_port = pick_ports(2)
    jars = provide_jars(tool_cache)
    broker = KafkaBroker(server_dir / "kafka", port, controller_port, find_java(), jars)
    with running(broker.process(), server_dir):
        yield broker.bootstrap

# SPDX-License-Identifier: Apache-2.0
"""Which registry is asked; ours is started with tokens, on SQLite, when no address is given.

At the end the endpoints of the run are stopped, and what stays of it is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from contracts.conformance.registry.asking import OURS, Left, Registry

from headrace.admin import create_topics, static_topics
from headrace.local.ports import LOOPBACK, pick_ports
from headrace.local.process import Child
from headrace.local.service_process import service_process
from headrace.rpc import open_channel
from headrace.tokens import issue_token

LEFT = pytest.StashKey[Left]()


class Target(NamedTuple):
    """An address, a token that may do all and one that may only read; empty: none is wanted."""

    address: str
    token: str
    reader_token: str


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--addr", default="", help="HOST:PORT of a registry; ours when empty")
    parser.addoption("--token", default="", help="A token that may do all, if it wants tokens")
    parser.addoption("--reader-token", default="", help="A token that may only read")


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest, tmp_path_factory) -> Iterator[Target]:
    told = request.config.getoption
    if told("--addr"):
        yield Target(told("--addr"), told("--token"), told("--reader-token"))
        return
    bootstrap = request.getfixturevalue("kafka_server")
    with _ours(bootstrap, tmp_path_factory.mktemp("registry")) as ours:
        yield ours


@contextmanager
def _ours(bootstrap: str, folder: Path) -> Iterator[Target]:
    create_topics(bootstrap, static_topics())
    tokens = folder / "tokens.json"
    token, reader_token = (
        issue_token(tokens, name, permissions)
        for name, permissions in (("conformance", ["*"]), ("reader", ["read"]))
    )
    grpc_port, http_port = pick_ports(2)
    told = {"KAFKA_BOOTSTRAP": bootstrap, "DATA_DIR": str(folder), "TOKENS_FILE": str(tokens)}
    spec = service_process("registry", (grpc_port, http_port), told)
    child = Child(spec, folder / "registry.log", folder)
    try:
        child.wait_ready()
        yield Target(f"{LOOPBACK}:{grpc_port}", token, reader_token)
    finally:
        child.stop()


@pytest.fixture(scope="session")
def registry(target: Target, request: pytest.FixtureRequest) -> Iterator[Registry]:
    channel = open_channel(target.address)
    asked = Registry(channel, target.token)
    yield asked
    request.config.stash[LEFT] = asked.leave()
    channel.close()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Only of a registry that somebody named: ours is gone with its folder."""
    left, address = config.stash.get(LEFT, None), config.getoption("--addr")
    if left is None or not address:
        return
    terminalreporter.section("what stays")
    terminalreporter.write_line(
        f"{address} keeps {left.models} models and {left.endpoints} endpoints named {OURS}..., with"
        f" their versions and files: nothing in the protocol deletes. The {left.stopped} endpoints"
        " that served are stopped (ENDPOINT_STOPPED)."
    )


@pytest.fixture
def stranger(target: Target, registry: Registry) -> Registry:
    """The same registry, asked without a token."""
    if not target.token:
        pytest.skip("no --token")
    return Registry(registry.channel)


@pytest.fixture
def reader(target: Target, registry: Registry) -> Registry:
    """The same registry, asked by one who may only read."""
    if not target.reader_token:
        pytest.skip("no --reader-token")
    return Registry(registry.channel, target.reader_token)

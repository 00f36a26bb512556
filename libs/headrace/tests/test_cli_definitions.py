# SPDX-License-Identifier: Apache-2.0
"""`headrace definitions` lists what is applied, takes back, and names who needs what is refused."""

from __future__ import annotations

import pytest
from click.testing import Result
from typer.testing import CliRunner

from headrace.cli import definitions
from headrace.cli.main import app
from headrace.errors import Conflict
from headrace.registry.v1.registry_events_pb2 import Definition

ENDPOINT = Definition(kind="endpoint", name="delay", application="flights", version=3)


class Client:
    """Keeps what it was asked for; recipes are needed."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []

    def applied(self) -> list[Definition]:
        return [ENDPOINT]

    def retract(self, kind: str, name: str, *, reason: str) -> Definition:
        self.asked.append((kind, name, reason))
        if kind == "recipe":
            raise Conflict("DEFINITION_NEEDED", kind=kind, name=name, needed_by="endpoint delay")
        return ENDPOINT


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client()
    monkeypatch.setattr(definitions, "connect", lambda data_dir: made)
    return made


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["definitions", *arguments])


@pytest.mark.usefixtures("client")
def test_applied_definitions_are_listed_with_version_and_application() -> None:
    [line] = [each for each in run("list").stdout.splitlines() if "delay" in each]

    assert ["endpoint", "delay", "3", "flights"] == line.replace("│", " ").split()


def test_definition_is_taken_back_with_the_reason(client: Client) -> None:
    ended = run("retract", "endpoint", "delay", "--reason", "nobody asks")

    assert [("endpoint", "delay", "nobody asks")] == client.asked
    assert "endpoint delay of flights is taken back (version 3).\n" == ended.stdout


@pytest.mark.usefixtures("client")
def test_refused_one_is_told_with_who_needs_it() -> None:
    ended = run("retract", "recipe", "delay")

    assert 1 == ended.exit_code
    assert "  needed_by: endpoint delay" in ended.stderr.splitlines()

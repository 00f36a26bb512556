# SPDX-License-Identifier: Apache-2.0
"""headrace registry verify tells what differs, and what somebody else wrote."""

import pytest
from typer.testing import CliRunner

from headrace.cli import registry as cli
from headrace.cli.main import app
from headrace.registry.v1.registry_events_pb2 import Alias
from headrace.registry_state import RegistryState


class Client:
    def __init__(self, answered, told):
        self._states = answered, told

    def registry_states(self):
        return self._states


@pytest.fixture
def verify(monkeypatch):
    def run(told, answered=None):
        answered = RegistryState({"alias delay@champion": Alias(generation=1)})
        monkeypatch.setattr(cli, "connect", lambda _: Client(answered, told))
        return CliRunner().invoke(app, ["registry", "verify"])

    return run


def test_same_state_is_told_with_its_digest(verify):
    result = verify(RegistryState({"alias delay@champion": Alias(generation=1)}))

    assert (0, True) == (result.exit_code, "1 entries, both " in result.output)


def test_what_somebody_else_wrote_is_told_by_its_place(verify):
    told = RegistryState({"alias delay@champion": Alias(generation=1)}, ["topic offset 3: odd"])

    result = verify(told)

    assert 1 == result.exit_code
    assert "not of the registry: topic offset 3: odd" in result.output
    assert "1 on its topics that it did not write" in result.output


def test_what_somebody_else_wrote_does_not_steer_the_terminal(verify):
    result = verify(RegistryState({}, ["\x1b]0;title\x07 id=\nall is well"]))

    assert r"not of the registry: \x1b]0;title\x07 id=\nall is well" in result.output


def test_only_so_many_differences_are_shown(verify):
    told = RegistryState({f"version delay/{number}": Alias() for number in range(30)})

    result = verify(told)

    assert 20 == result.output.count("differs: ")
    assert "... and 11 more" in result.output

# SPDX-License-Identifier: Apache-2.0
"""`headrace apply` tells each change of a contract that the registry refuses."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from headrace.cli import work
from headrace.cli.main import app
from headrace.errors import Conflict

FLIGHTS = Path(__file__).parents[3] / "examples/flights"
CHANGES = ("column gate: is gone", "column delay: type was float64, is int64")


class Refusing:
    """Answers as a client whose registry takes nothing."""

    def apply(self, application):
        raise Conflict("CONTRACT_INCOMPATIBLE", stream="flights", changes="\n".join(CHANGES))


def test_refused_contract_ends_the_command_with_a_line_for_each_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(work, "connect", lambda data_dir: Refusing())

    ended = CliRunner().invoke(app, ["apply", str(FLIGHTS)])

    assert 1 == ended.exit_code
    assert "  stream: flights" in ended.stderr.splitlines()
    assert [f"    {change}" for change in CHANGES] == [
        line for line in ended.stderr.splitlines() if line.lstrip().startswith("column")
    ]

# SPDX-License-Identifier: Apache-2.0
"""Every command teaches by an example of itself."""

from itertools import pairwise

import pytest
import typer
from typer.testing import CliRunner

from headrace.cli.main import app


def commands(command, path):
    if not hasattr(command, "list_commands"):
        yield path, command
        return
    for name in command.list_commands(None):
        yield from commands(command.get_command(None, name), f"{path} {name}")


COMMANDS = dict(commands(typer.main.get_command(app), "headrace"))


@pytest.mark.parametrize("path", COMMANDS)
def test_help_of_a_command_shows_how_it_is_called(path):
    assert f"{path} " in f"{COMMANDS[path].help}\n".replace("\n", " ")


def test_examples_are_among_them():
    assert "headrace demo flights" in COMMANDS


def test_prose_of_help_flows_to_the_width_and_examples_keep_their_lines():
    told = CliRunner().invoke(app, ["up", "--help"], env={"COLUMNS": "60", "TERM": "dumb"}).output
    lines = [line.strip() for line in told.splitlines()]
    prose = lines[lines.index("") + 1 : lines.index("headrace up")]
    # Each line but a paragraph's last is as full as its next word allows.
    for line, following in pairwise(prose):
        if line and following:
            assert len(f"{line} {following.split()[0]}") > 57
    assert "headrace up --postgres --s3" in lines

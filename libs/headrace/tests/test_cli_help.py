# SPDX-License-Identifier: Apache-2.0
"""Every command teaches by an example of itself."""

import pytest
import typer

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

# SPDX-License-Identifier: Apache-2.0
"""Every command teaches by an example of itself."""

import pytest
import typer

from headrace.cli.main import app


def commands(command, path):
    below = getattr(command, "commands", {})
    for name, each in below.items():
        yield from commands(each, f"{path} {name}")
    if not below:
        yield path, command


COMMANDS = dict(commands(typer.main.get_command(app), "headrace"))


@pytest.mark.parametrize("path", COMMANDS)
def test_help_of_a_command_shows_how_it_is_called(path):
    assert f"{path} " in f"{COMMANDS[path].help}\n".replace("\n", " ")

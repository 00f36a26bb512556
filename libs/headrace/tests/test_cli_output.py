# SPDX-License-Identifier: Apache-2.0
"""Tables are readable on a narrow screen and whole in a pipe."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from headrace.cli import output

LONG_ID = "0123456789abcdef" * 4


@pytest.fixture
def show(monkeypatch):
    """What a console of 80 columns gets of a table."""

    def shown(*, terminal, cells):
        console = Console(
            file=io.StringIO(),
            width=80,
            force_terminal=terminal,
            color_system=None,
            soft_wrap=True,
        )
        monkeypatch.setattr(output, "out", console)
        table = Table("task", "target", "score")
        table.add_row(*cells)
        output.show_table(table)
        return console.file.getvalue()

    return shown


def test_table_that_fits_is_shown_as_one(show):
    assert "│ a    │ b      │ c     │" in show(terminal=True, cells=("a", "b", "c"))


def test_table_that_is_too_wide_for_the_screen_is_shown_a_line_a_cell(show):
    wanted = f"task: {LONG_ID}\ntarget: b\nscore: 0.5\n\n"

    assert wanted == show(terminal=True, cells=(LONG_ID, "b", "0.5"))


def test_piped_table_is_whole_however_wide(show):
    lines = show(terminal=False, cells=(LONG_ID, LONG_ID, LONG_ID)).splitlines()

    assert [LONG_ID] * 3 == lines[3].replace("│", "").split()


def test_empty_cell_takes_no_line(show):
    assert "target" not in show(terminal=True, cells=(LONG_ID * 2, "", "0.5"))


def test_line_is_never_broken():
    for console in (output.out, output.err):
        with console.capture() as captured:
            console.print(" ".join([LONG_ID] * 10))
        assert 1 == captured.get().count("\n")

# SPDX-License-Identifier: Apache-2.0
"""Tables are readable on a narrow screen and whole in a pipe; texts are shown, never obeyed."""

import io

import pytest
from rich.table import Table

from headrace.cli import output

LONG_ID = "0123456789abcdef" * 4


@pytest.fixture
def show(monkeypatch):
    """What a console of 80 columns gets of a table."""

    def shown(*, terminal, cells):
        console = output.PlainConsole(
            file=io.StringIO(), width=80, force_terminal=terminal, color_system=None
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


@pytest.mark.parametrize("given", ["[/ap]", "[bold]x", "a\\[b]", ":warning:"])
@pytest.mark.parametrize("filler", ["", LONG_ID * 2])
@pytest.mark.parametrize("terminal", [True, False])
def test_markup_in_a_cell_is_shown(show, terminal, filler, given):
    assert given in show(terminal=terminal, cells=(given, filler, "0.5"))


def printed(*given):
    with output.out.capture() as captured:
        output.out.print(*given)
    return captured.get()


def test_markup_in_a_line_is_shown():
    assert "[/ap] [red]x[/] :warning:\n" == printed("[/ap] [red]x[/] :warning:")


def test_what_a_terminal_would_obey_is_shown_escaped():
    assert r"\x1b]0;pwn\x07\x1b[2J\x9b\r\u202e" + "\n" == printed("\x1b]0;pwn\a\x1b[2J\x9b\r\u202e")


def test_what_a_terminal_would_obey_is_shown_escaped_in_a_cell(show):
    assert r"\x1b[2J\x07" in show(terminal=True, cells=("\x1b[2J\a", "b", "c"))


def test_lines_and_letters_of_any_script_are_shown_as_they_are():
    assert "# é 日本\nשלום 👩\u200d🔬\n" == printed("# é 日本\r\nשלום 👩\u200d🔬")


def test_error_shows_what_it_is_about_as_it_is():
    with output.err.capture() as captured:
        output.tell(output.err, "BAD_NAME", {"value": "[/x]\x1b"})

    assert r"value: [/x]\x1b" in captured.get()


@pytest.mark.parametrize(
    ("reason", "step"),
    [
        ("BAD_NAME", "NAME/VERSION or NAME@ALIAS"),
        ("GATE_NOT_PASSED", "headrace models approve"),
        ("SOURCE_UNKNOWN", "--endpoint ENDPOINT"),
    ],
)
def test_error_names_the_next_step(reason, step):
    with output.err.capture() as captured:
        output.tell(output.err, reason, {})

    assert step in captured.get().partition("Next:")[2]

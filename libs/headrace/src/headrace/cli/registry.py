# SPDX-License-Identifier: Apache-2.0
"""headrace registry: whether what the registry answers is what its topics tell."""

from __future__ import annotations

import typer

from headrace.cli.connection import DEFAULT_DATA_DIR, DataDir
from headrace.cli.output import EXIT_ERROR, out, told_errors
from headrace.connection import connect

app = typer.Typer(no_args_is_help=True, help="The registry itself.")
SHOWN_MAX = 20


@app.callback()
def _group() -> None:
    """Keeps `verify` a command of its own while it is the only one."""


@app.command()
def verify(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Rebuild the registry's state from its topics alone and compare it with what it answers.

    headrace registry verify
    """
    with told_errors():
        answered, told = connect(data_dir).registry_states()
    differences = answered.differences(told)
    _show("differs", differences)
    if differences:
        out.print(f"{len(differences)} of {len(answered.entries)} differ; what was changed in the")
        out.print("last moment may still be on its way: ask again.")
    _show("not of the registry", told.strangers)
    if told.strangers:
        count = len(told.strangers)
        out.print(f"{count} on its topics that it did not write: see who may write there.")
    if differences or told.strangers:
        raise typer.Exit(EXIT_ERROR)
    out.print(f"{len(answered.entries)} entries, both {answered.digest()}")


def _show(what: str, found: list[str]) -> None:
    for each in found[:SHOWN_MAX]:
        # Strangers choose their names: nothing of them may steer the terminal.
        out.print(f"{what}: {ascii(each)[1:-1]}")
    if len(found) > SHOWN_MAX:
        out.print(f"... and {len(found) - SHOWN_MAX} more")

# SPDX-License-Identifier: Apache-2.0
"""The option by which a command is told which platform it talks to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.local.settings import DATA_DIR, DATA_DIR_SETTING

DataDir = Annotated[
    Path,
    typer.Option(help="The data folder of the platform to talk to.", envvar=DATA_DIR_SETTING),
]
DEFAULT_DATA_DIR = DATA_DIR

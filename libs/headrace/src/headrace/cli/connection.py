# SPDX-License-Identifier: Apache-2.0
"""Finds the platform that a command talks to: the one that runs on the data folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from headrace.client import Addresses, Client
from headrace.errors import Unavailable
from headrace.local.platform import ADDRESSES_FILE
from headrace.local.state import DataFolder, live_state

DataDir = Annotated[
    Path,
    typer.Option(help="The data folder of the platform to talk to.", envvar="HEADRACE_DATA_DIR"),
]
DEFAULT_DATA_DIR = Path(".headrace")


def connect(data_dir: Path) -> Client:
    """A client of the platform that `headrace up` runs on this folder.

    Raises Unavailable NOT_RUNNING when none runs there.
    """
    folder = DataFolder(data_dir)
    addresses = folder.run / ADDRESSES_FILE
    if live_state(folder) is None or not addresses.exists():
        raise Unavailable("NOT_RUNNING", data_dir=data_dir)
    found = json.loads(addresses.read_text(encoding="utf-8"))
    return Client(Addresses(**found))

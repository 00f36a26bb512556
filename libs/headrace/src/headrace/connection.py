# SPDX-License-Identifier: Apache-2.0
"""Finds the platform that a program talks to: the one of a data folder, or one elsewhere."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from headrace.client import Addresses, Client
from headrace.errors import Invalid, Unavailable
from headrace.local.platform import ADDRESSES_FILE
from headrace.local.settings import chosen_data_dir
from headrace.local.state import DataFolder, live_state
from headrace.whole_file import write_whole

CONNECTION_FILE = "connection.json"


def connect(data_dir: Path | None = None) -> Client:
    """A client of the platform that `headrace up` runs on this folder, else of the kept one.

    Without a folder it is the one that commands take: HEADRACE_DATA_DIR, else `.headrace`. Raises
    Unavailable NOT_RUNNING when there is neither, Invalid BAD_SETTING for a broken file.
    """
    data_dir = chosen_data_dir() if data_dir is None else data_dir
    folder = DataFolder(data_dir)
    addresses, kept = folder.run / ADDRESSES_FILE, data_dir / CONNECTION_FILE
    if live_state(folder) is not None and addresses.exists():
        return Client(Addresses(**json.loads(addresses.read_text(encoding="utf-8"))))
    if not kept.exists():
        raise Unavailable("NOT_RUNNING", data_dir=data_dir)
    try:
        told = json.loads(kept.read_text(encoding="utf-8"))
        return Client(Addresses(**told["addresses"]), told["token"])
    except (ValueError, TypeError, KeyError) as err:
        problem = "it is no connection; write it anew with headrace connect"
        raise Invalid("BAD_SETTING", file=kept, problem=problem) from err


def keep_connection(data_dir: Path, addresses: Addresses, token: str) -> Path:
    """Remembers where a platform is, in a file that its owner alone reads; returns the file."""
    kept = data_dir / CONNECTION_FILE
    write_whole(kept, json.dumps({"addresses": asdict(addresses), "token": token}, indent=1))
    return kept

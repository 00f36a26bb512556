# SPDX-License-Identifier: Apache-2.0
"""Finds the platform that a program talks to: the one of a data folder, or one elsewhere."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from headrace.client import Addresses, Client
from headrace.errors import Invalid, Unavailable
from headrace.local.platform import ADDRESSES_FILE
from headrace.local.settings import chosen_data_dir
from headrace.local.state import DataFolder, live_state
from headrace.whole_file import write_whole

CONNECTION_FILE = "connection.json"


class _Kept(NamedTuple):
    addresses: Addresses
    token: str


def connect(data_dir: Path | None = None) -> Client:
    """A client of the platform that `headrace up` runs on this folder, else of the kept one.

    The one that runs here is shown the kept token if that was kept for its addresses, and for no
    others. Without a folder it is the one that commands take: HEADRACE_DATA_DIR, else `.headrace`.
    Raises Unavailable NOT_RUNNING when there is neither, Invalid BAD_SETTING for a broken file.
    """
    data_dir = chosen_data_dir() if data_dir is None else data_dir
    here, kept = addresses_here(data_dir), _kept(data_dir)
    if here is not None:
        return Client(here, kept.token if kept is not None and kept.addresses == here else "")
    if kept is None:
        raise Unavailable("NOT_RUNNING", data_dir=data_dir)
    return Client(*kept)


def addresses_here(data_dir: Path) -> Addresses | None:
    """Of the platform that `headrace up` runs on this folder, if one does."""
    folder = DataFolder(data_dir)
    addresses = folder.run / ADDRESSES_FILE
    if live_state(folder) is None or not addresses.exists():
        return None
    return Addresses(**json.loads(addresses.read_text(encoding="utf-8")))


def keep_connection(data_dir: Path, addresses: Addresses, token: str) -> Path:
    """Remembers where a platform is, in a file that its owner alone reads; returns the file."""
    kept = data_dir / CONNECTION_FILE
    write_whole(kept, json.dumps({"addresses": asdict(addresses), "token": token}, indent=1))
    return kept


def _kept(data_dir: Path) -> _Kept | None:
    file = data_dir / CONNECTION_FILE
    if not file.exists():
        return None
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        return _Kept(Addresses(**told["addresses"]), told["token"])
    except (ValueError, TypeError, KeyError) as err:
        problem = "it is no connection; write it anew with headrace connect"
        raise Invalid("BAD_SETTING", file=file, problem=problem) from err

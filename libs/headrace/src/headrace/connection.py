# SPDX-License-Identifier: Apache-2.0
"""Finds the platform that a program talks to: the one of a data folder, or one elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from headrace.client import Addresses, Client
from headrace.errors import Invalid, Unavailable
from headrace.local.platform import ADDRESSES_FILE
from headrace.local.settings import chosen_data_dir
from headrace.local.state import DataFolder, live_state
from headrace.whole_file import write_whole

CONNECTION_FILE = "connection.json"
# What reading a file raises that is cut, of another version or no file; nested lists recurse.
_UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError)


class _Kept(NamedTuple):
    addresses: Addresses
    token: str


def connect(data_dir: Path | None = None) -> Client:
    """A client of the platform that `headrace up` runs on this folder, else of the kept one.

    The one that runs here is shown the kept token if that was kept for its addresses, and for no
    others. Without a folder it is the one that commands take: HEADRACE_DATA_DIR, else `.headrace`.
    Raises Unavailable NOT_RUNNING when there is neither, Invalid BAD_SETTING for a broken file that
    is needed.
    """
    data_dir = chosen_data_dir() if data_dir is None else data_dir
    here = addresses_here(data_dir)
    if here is not None:
        return Client(here, _token_for(here, data_dir))
    kept = _kept(data_dir)
    if kept is None:
        raise Unavailable("NOT_RUNNING", data_dir=data_dir)
    return Client(*kept)


def addresses_here(data_dir: Path) -> Addresses | None:
    """Of the platform that `headrace up` runs on this folder, if one does.

    Raises Invalid BAD_SETTING where another version of it, or nobody, wrote what is there.
    """
    folder = DataFolder(data_dir)
    file = folder.run / ADDRESSES_FILE
    if live_state(folder) is None or not file.exists():
        return None
    try:
        return _addresses(_read(file))
    except _UNREADABLE as err:
        problem = "it holds no addresses that can be read; headrace down and headrace up renew it"
        raise Invalid("BAD_SETTING", file=file, problem=problem) from err


def keep_connection(data_dir: Path, addresses: Addresses, token: str) -> Path:
    """Remembers where a platform is, in a file that its owner alone reads; returns the file."""
    kept = data_dir / CONNECTION_FILE
    write_whole(kept, json.dumps({"addresses": asdict(addresses), "token": token}, indent=1))
    return kept


def _token_for(here: Addresses, data_dir: Path) -> str:
    """A kept connection that is broken stands in nobody's way here: a token is asked for anew."""
    try:
        kept = _kept(data_dir)
    except Invalid:
        return ""
    return kept.token if kept is not None and kept.addresses == here else ""


def _kept(data_dir: Path) -> _Kept | None:
    file = data_dir / CONNECTION_FILE
    if not file.exists():
        return None
    try:
        told = _read(file)
        return _Kept(_addresses(told["addresses"]), _text(told["token"]))
    except _UNREADABLE as err:
        problem = "it is no connection; write it anew with headrace connect"
        raise Invalid("BAD_SETTING", file=file, problem=problem) from err


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _addresses(told: Mapping[str, object]) -> Addresses:
    return Addresses(**{name: _text(address) for name, address in told.items()})


def _text(told: object) -> str:
    if not isinstance(told, str):
        raise TypeError
    return told

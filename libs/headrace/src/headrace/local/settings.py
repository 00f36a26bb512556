# SPDX-License-Identifier: Apache-2.0
"""The only file of the local runtime that reads the environment: where its data lie, and what child
processes inherit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

DATA_DIR_SETTING, DATA_DIR = "HEADRACE_DATA_DIR", Path(".headrace")


def chosen_data_dir() -> Path:
    """The data folder of a program that names none, as the commands read it."""
    return Path(os.environ.get(DATA_DIR_SETTING) or DATA_DIR)


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of this process, with `extra` on top."""
    return {**os.environ, **(extra or {})}


def has_settings(service: str) -> bool:
    """Whether this environment tells the service something of its own."""
    return any(name.upper().startswith(f"{service.upper()}_") for name in os.environ)


def given_settings(service: str) -> dict[str, str]:
    """What this environment tells the service, by the names without its prefix; nothing empty."""
    prefix = f"{service.upper()}_"
    told = {name.upper(): value for name, value in os.environ.items() if value}
    return {
        name.removeprefix(prefix): value for name, value in told.items() if name.startswith(prefix)
    }

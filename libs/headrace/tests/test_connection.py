# SPDX-License-Identifier: Apache-2.0
"""A program finds the platform where the commands find it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from headrace.client import Addresses
from headrace.connection import connect, keep_connection
from headrace.errors import Unavailable
from headrace.local.platform import ADDRESSES_FILE
from headrace.local.state import DataFolder, RunState, write_state

ELSEWHERE = Addresses(registry="registry.example:7104")
HERE = Addresses(registry="127.0.0.1:17104")


def run_here(root: Path) -> None:
    """As if this process were a supervisor whose services take other ports than the usual."""
    folder = DataFolder(root)
    folder.run.mkdir(parents=True)
    (folder.run / ADDRESSES_FILE).write_text(json.dumps(asdict(HERE)))
    write_state(folder, RunState(os.getpid(), psutil.Process().create_time(), ()))


def test_platform_of_the_folder_here_is_found_without_a_word(tmp_path, monkeypatch):
    monkeypatch.delenv("HEADRACE_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    run_here(Path(".headrace"))

    assert HERE == connect().addresses


def test_platform_of_the_folder_that_the_environment_names_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_DATA_DIR", str(tmp_path / "demo"))
    run_here(tmp_path / "demo")

    assert HERE == connect().addresses


def test_platform_elsewhere_is_found_with_its_token(tmp_path):
    keep_connection(tmp_path, ELSEWHERE, "secret")

    client = connect(tmp_path)

    assert (ELSEWHERE, "secret") == (client.addresses, client.token)


def test_without_either_it_is_not_running(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_DATA_DIR", str(tmp_path))

    with pytest.raises(Unavailable, match="NOT_RUNNING"):
        connect()


def test_platform_here_is_shown_the_token_that_was_kept_for_it(tmp_path):
    run_here(tmp_path)
    keep_connection(tmp_path, HERE, "secret")

    client = connect(tmp_path)

    assert (HERE, "secret") == (client.addresses, client.token)


def test_platform_here_is_shown_no_token_of_another(tmp_path):
    run_here(tmp_path)
    keep_connection(tmp_path, ELSEWHERE, "secret")

    client = connect(tmp_path)

    assert (HERE, "") == (client.addresses, client.token)

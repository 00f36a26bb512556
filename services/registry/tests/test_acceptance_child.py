# SPDX-License-Identifier: Apache-2.0
"""What holds the child that looks through a file: time, files, network, and what it may read.

Each test runs the child as it is run, with a smaller limit or with somebody who looks at it inside.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from headrace.errors import Invalid
from headrace_registry.adapters import child_acceptor
from headrace_registry.adapters.child_acceptor import ENVIRONMENT, ChildAcceptor
from headrace_registry.testing import a_file

# Behind the start's own first step, so that what follows sees the child as a file does.
INSIDE = """
import json, os, resource, socket, sys, time
from headrace_registry.adapters import acceptance_start as start
leave = start.leave_network
def looked_at():
    leave()
    from headrace_registry.adapters import acceptance_child as child
    {inside}
start.leave_network = looked_at
sys.exit(start.main())
"""
WIDTH = 256
SHORT_OF_CPU = "child.CPU_S_MAX = int(time.process_time()) + 1"
LOOKED_INTO = """
    def look(file):
        told = {"environment": sorted(os.environ), "folder": os.listdir()}
        networks = (f"/proc/self/task/{each}/ns/net" for each in os.listdir("/proc/self/task"))
        told["networks"] = len({os.readlink(each) for each in networks})
        told["interfaces"] = [name for _, name in socket.if_nameindex()]
        limits = ("AS", "CPU", "NOFILE", "FSIZE", "CORE")
        told["limits"] = {n: resource.getrlimit(getattr(resource, f"RLIMIT_{n}")) for n in limits}
        try:
            os.write(os.open("own", os.O_CREAT | os.O_WRONLY), b"x")
        except OSError as err:
            told["write"] = err.strerror
        try:
            opened = [os.dup(0) for _ in range(100)]
        except OSError as err:
            told["open"] = err.strerror
        sys.stdout.write(json.dumps(told))
        sys.stdout.flush()
        os._exit(0)
    child.look_through = look
"""
RECORDED = """
    real = child.look_through
    def look(file):
        opened, reason = [], ""
        def heard(event, args):
            if event in ("open", "os.listdir", "os.scandir", "os.open"):
                opened.append(str(args[0]))
        sys.addaudithook(heard)
        try:
            real(file)
        except child.HeadraceError as err:
            reason = err.reason
        sys.stdout.write(json.dumps({"reason": reason, "opened": opened}))
        sys.stdout.flush()
        os._exit(0)
    child.look_through = look
"""


@pytest.fixture
def run_inside(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives these lines to each child that starts from now on."""
    real = child_acceptor.subprocess

    def give(inside: str) -> None:
        run = [sys.executable, "-I", "-c", INSIDE.replace("{inside}", inside.strip())]
        fake = types.SimpleNamespace(
            **{name: getattr(real, name) for name in ("PIPE", "DEVNULL")},
            Popen=lambda _, **more: real.Popen(run, **more),
        )
        monkeypatch.setattr(child_acceptor, "subprocess", fake)

    return give


def told_by_child(data: bytes) -> dict[str, Any]:
    with a_file(data) as file:
        code, said = child_acceptor._answer(file)
    assert 0 == code, said
    return json.loads(said)


def a_burner() -> bytes:
    """As many trips as a Loop may have, each a product of matrices: all its runs take 17 s here."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("MatMul", ["sum", "w"], ["next"]),
        ],
        "body",
        [
            value("trip", TensorProto.INT64, []),
            value("go", TensorProto.BOOL, []),
            value("sum", TensorProto.FLOAT, [WIDTH, WIDTH]),
        ],
        [value("on", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, [WIDTH, WIDTH])],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["trips", "yes", "x"], ["y"], body=body)],
        "graph",
        [value("x", TensorProto.FLOAT, [WIDTH, WIDTH])],
        [value("y", TensorProto.FLOAT, [WIDTH, WIDTH])],
        [
            numpy_helper.from_array(np.array(10_000, np.int64), "trips"),
            numpy_helper.from_array(np.array(True), "yes"),
            numpy_helper.from_array(np.eye(WIDTH, dtype=np.float32), "w"),
        ],
    )
    opset = helper.make_opsetid("", 17)
    data: bytes = helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()
    return data


def refused_by(acceptor: ChildAcceptor, data: bytes) -> Invalid:
    with a_file(data) as file, pytest.raises(Invalid, match="VALIDATION_LIMIT") as refused:
        acceptor.accept(file)
    return refused.value


def test_file_that_burns_cpu_ends_its_child_alone(run_inside, monkeypatch) -> None:
    acceptor = ChildAcceptor()
    run_inside(SHORT_OF_CPU)

    refused = refused_by(acceptor, a_burner())

    assert refused.metadata["ended_by"] in ("signal 9", "signal 24")
    monkeypatch.undo()
    with a_file(a_model()) as file:
        acceptor.accept(file)


def test_file_that_takes_too_long_is_ended_by_the_clock(monkeypatch) -> None:
    monkeypatch.setattr(child_acceptor, "WALL_S_MAX", 2)

    refused = refused_by(ChildAcceptor(), a_burner())

    assert "signal 9" == refused.metadata["ended_by"]


def test_child_has_its_limits_and_neither_environment_nor_folder(run_inside) -> None:
    run_inside(LOOKED_INTO)

    told = told_by_child(a_model())

    assert {
        "AS": [2 << 30, 2 << 30],
        "CPU": [30, 30],
        "NOFILE": [16, 16],
        "FSIZE": [0, 0],
        "CORE": [0, 0],
    } == told["limits"]
    assert ("File too large", "Too many open files") == (told["write"], told["open"])
    assert [] == told["folder"]
    # Python makes a locale of its own where there is none (PEP 538).
    assert {*ENVIRONMENT} == {*told["environment"]} - {"LC_CTYPE"}


def leaves_the_network(child: str) -> bool:
    ran = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True)
    return ran.stdout.strip() == "True"


def test_child_has_no_network_where_that_may_be_left(run_inside) -> None:
    """Where this machine forbids namespaces the child has the machine's, as README says."""
    run_inside(LOOKED_INTO)
    flags = "0x40000000", "0x50000000"
    tries = " or ".join(f"ctypes.CDLL(None).unshare({flag}) == 0" for flag in flags)
    allowed = leaves_the_network(f"import ctypes; print({tries})")
    here = [name for _, name in socket.if_nameindex()]

    told = told_by_child(a_model())

    assert (["lo"] if allowed else here) == told["interfaces"]
    # Each of its threads is there: one that began before would have stayed.
    assert 1 == told["networks"]


@contextmanager
def watched(folder: Path) -> Iterator[Any]:
    """Names of the files in it that anybody opens, native code as well: inotify(7)."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    assert descriptor >= 0
    opened = 0x20
    assert libc.inotify_add_watch(descriptor, bytes(folder), opened) > 0

    def names() -> set[str]:
        found, data = set(), b""
        try:
            data = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return found
        while data:
            length = int.from_bytes(data[12:16], sys.byteorder)
            found.add(data[16 : 16 + length].rstrip(b"\0").decode())
            data = data[16 + length :]
        return found

    try:
        yield names
    finally:
        os.close(descriptor)


def a_model(*weights: TensorProto) -> bytes:
    """It adds its weights, or nothing."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", 3]) for n in "xy")
    step = ("Add", ["x", "w"]) if weights else ("Relu", ["x"])
    graph = helper.make_graph([helper.make_node(*step, ["y"])], "graph", [x], [y], weights)
    opset = helper.make_opsetid("", 17)
    data: bytes = helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()
    return data


def with_weights_at(location: str) -> bytes:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return a_model(tensor)


WAYS = ("absolute", "up and down", "beside", "symbolic link", "hard link")


@pytest.mark.parametrize("way", WAYS)
def test_file_that_names_others_has_none_of_them_opened(
    run_inside, monkeypatch, tmp_path: Path, way: str
) -> None:
    # The child's own folder is made in here: a step up from it is this one.
    monkeypatch.setattr(child_acceptor.tempfile, "tempdir", str(tmp_path))
    weights, symbolic, hard = (tmp_path / name for name in ("weights", "symbolic", "hard"))
    weights.write_bytes(np.ones(3, np.float32).tobytes())
    symbolic.symlink_to(weights)
    hard.hardlink_to(weights)
    # A reader would begin at the folder of the child's open files, from where `cwd` is its own.
    places = {
        "absolute": (weights, str(weights)),
        "up and down": (weights, f"{'../' * 12}{weights.relative_to('/')}"),
        "beside": (weights, "../cwd/../weights"),
        "symbolic link": (symbolic, "../cwd/../symbolic"),
        "hard link": (hard, "../cwd/../hard"),
    }
    named, location = places[way]
    run_inside(RECORDED)

    with watched(tmp_path) as opened:
        told = told_by_child(with_weights_at(location))
        assert not {"weights", "hard"} & opened()
        named.read_bytes()
        assert {"weights", "hard"} & opened()

    assert "EXTERNAL_DATA" == told["reason"]
    code = (sys.prefix, sys.base_prefix, str(Path(child_acceptor.__file__).parents[1]))
    outside = [each for each in told["opened"] if not each.startswith((*code, "/proc/self/"))]
    assert [] == outside
    assert "/proc/self/fd/0" in told["opened"]

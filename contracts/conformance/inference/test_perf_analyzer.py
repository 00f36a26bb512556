# SPDX-License-Identifier: Apache-2.0
"""Triton's load generator, which its users measure a server by, in an environment of its own.

The newest that comes in a wheel; its libraries are those that Triton's server is packed with.
"""

from __future__ import annotations

import csv
import os
import platform
import re
import subprocess
from pathlib import Path

import pytest
from benchmarks.peers.installed import PythonPeer
from contracts.conformance.inference.models import SIMPLE

PERF_ANALYZER = PythonPeer(
    "perf-analyzer", "2.44.0", ("--no-deps", "tritonclient==2.44.0", "nvidia-pytriton==0.2.5")
)
LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12.*"}
ASK_TIMEOUT_S = 120
REQUESTS = 50
# One window of so many requests is enough: nobody reads how fast it is.
BRIEFLY = (
    *("--measurement-mode", "count_windows", "--measurement-request-count", str(REQUESTS)),
    *("--measurement-interval", "100", "--stability-percentage", "100000"),
)
# Its environment may have to be made first, on a machine with other work.
pytestmark = [
    pytest.mark.timeout(ASK_TIMEOUT_S + 900),
    pytest.mark.skipif(
        (platform.system(), platform.machine()) != ("Linux", "x86_64"),
        reason="perf_analyzer is built for Linux on x86_64",
    ),
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """With its libraries by the names that it was linked with."""
    PERF_ANALYZER.install()
    libraries = tmp_path_factory.mktemp("libraries")
    for name, packed in LIBRARIES.items():
        (found,) = PERF_ANALYZER.folder.glob(f"lib/*/site-packages/nvidia_pytriton.libs/{packed}")
        (libraries / name).symlink_to(found)
    return {**os.environ, "LD_LIBRARY_PATH": str(libraries)}


@pytest.mark.parametrize(
    ("door", "options"),
    [
        ("grpc", ()),
        ("grpc", ("-b", "8", "--async", "--concurrency-range", "4")),
        ("grpc", ("--streaming", "--concurrency-range", "4")),
        ("grpc", ("--grpc-compression-algorithm", "gzip", "-x", "1")),
        ("grpc", ("--request-rate-range", "200")),
        ("http", ("-b", "4", "--concurrency-range", "4")),
        ("http", ("--input-tensor-format", "json", "--output-tensor-format", "json")),
    ],
    ids=["one", "batches", "stream", "compressed", "at a rate", "http", "json"],
)
def test_load_is_answered_and_the_servers_statistics_tell_of_it(
    environment, held, target, tmp_path, door, options
):
    held(SIMPLE)
    address = {"grpc": target.grpc, "http": target.rest}[door]
    if not address:
        pytest.skip("no --rest-addr")

    table = tmp_path / "table.csv"
    told = _ask(environment, address, door, *options, "-f", str(table))

    assert REQUESTS <= _count("Request count", told)
    assert REQUESTS <= _count("Successful request count", told)
    (row,) = csv.DictReader(table.read_text(encoding="utf-8").splitlines())
    assert 0 < float(row["Inferences/Second"])
    assert 0 < int(row["Server Compute Infer"])


def _ask(environment: dict[str, str], address: str, door: str, *options: str) -> str:
    program: Path = PERF_ANALYZER.folder / "bin/perf_analyzer"
    asked = subprocess.run(
        [str(program), "-m", SIMPLE, "-u", address, "-i", door, *BRIEFLY, *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=ASK_TIMEOUT_S,
    )
    assert 0 == asked.returncode, asked.stdout + asked.stderr
    return asked.stdout


def _count(name: str, told: str) -> int:
    found = re.search(rf"^ +{name}: (\d+)$", told, re.MULTILINE)
    assert found, told
    return int(found[1])

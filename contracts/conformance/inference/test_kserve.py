# SPDX-License-Identifier: Apache-2.0
"""The clients of kserve, gRPC and HTTP, in an environment of their own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from benchmarks.peers.installed import PythonPeer
from contracts.conformance.inference.models import SIMPLE

KSERVE = PythonPeer("kserve", "0.21.0", ("kserve==0.21.0",))
SCRIPT = Path(__file__).with_name("ask_by_kserve.py")
ASK_TIMEOUT_S = 120
# Its environment may have to be made first, on a machine with other work.
pytestmark = pytest.mark.timeout(ASK_TIMEOUT_S + 900)


@pytest.fixture(scope="module")
def answers(held, target) -> dict[str, Any]:
    held(SIMPLE)
    KSERVE.install()
    command = [str(KSERVE.python), str(SCRIPT), *target]
    asked = subprocess.run(command, capture_output=True, text=True, timeout=ASK_TIMEOUT_S)
    assert 0 == asked.returncode, asked.stderr
    return json.loads(asked.stdout)


@pytest.mark.parametrize("door", ["grpc", "rest"])
def test_client_of_kserve_finds_the_server_ready_and_gets_its_answer(answers, door):
    if door not in answers:
        pytest.skip("no --rest-addr")

    assert {
        "live": True,
        "ready": True,
        "model_ready": True,
        "id": "r-1",
        "outputs": {"OUTPUT0": list(range(1, 17)), "OUTPUT1": list(range(-1, 15))},
    } == answers[door]

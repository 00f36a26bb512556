# SPDX-License-Identifier: Apache-2.0
"""The suite tells what a server lacks, and that nobody answers, instead of failing test by test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from contracts.conformance.inference.models import models

from headrace.local.ports import LOOPBACK, pick_ports
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.oip import grpc_predict_v2_pb2_grpc as oip_grpc

pytestmark = pytest.mark.integration
SUITE = "contracts/conformance/inference/test_datatypes.py"


class OneModel(oip_grpc.GRPCInferenceServiceServicer):
    """Lives, and holds the model `cube` alone, which answers nothing."""

    def ServerLive(self, request, context):  # noqa: N802 - gRPC's name
        return oip.ServerLiveResponse(live=True)

    def ModelReady(self, request, context):  # noqa: N802 - gRPC's name
        return oip.ModelReadyResponse(ready=request.name == "cube")


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        oip_grpc.add_GRPCInferenceServiceServicer_to_server(OneModel(), server)
        port = server.add_insecure_port(f"{LOOPBACK}:0")
        server.start()
        yield f"{LOOPBACK}:{port}"
        server.stop(None).wait()


def ask(address: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", SUITE]
    ended = subprocess.run(
        [*command, "--addr", address], capture_output=True, text=True, timeout=120
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_models_that_the_server_lacks_are_named_once(address: str) -> None:
    code, said = ask(address)

    lacking = ", ".join(name for name in models() if name != "cube")
    assert 1 == code  # cube is held, and does not answer
    assert 1 == said.count(lacking)
    assert "models that the server lacks" in said


def test_run_ends_at_once_where_nobody_answers() -> None:
    address = f"{LOOPBACK}:{pick_ports(1)[0]}"

    code, said = ask(address)

    assert 1 == code
    assert f"ServerLive at {address} answers UNAVAILABLE" in said

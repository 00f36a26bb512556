# SPDX-License-Identifier: Apache-2.0
"""Peers that serve the same network by the Open Inference Protocol, each on the service's core."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks.machine import SERVICE_CORE, Machine, pinned
from benchmarks.outcome import say
from benchmarks.peers.installed import KSERVE, MLSERVER, PYTRITON, PythonPeer
from headrace.errors import Unavailable
from headrace.local.ports import LOOPBACK, pick_ports
from headrace.local.process import ProcessSpec, running
from headrace.local.settings import child_environment
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.oip import grpc_predict_v2_pb2_grpc as oip_grpc

SCRIPTS: Mapping[PythonPeer, str] = {
    MLSERVER: "mlserver_serving.py",
    KSERVE: "kserve_serving.py",
    PYTRITON: "pytriton_serving.py",
}


@dataclass(frozen=True, slots=True)
class ModelReady:
    """Ready when the endpoint `bench` is, asked over gRPC."""

    address: str

    def __call__(self, timeout_s: float) -> bool:
        with grpc.insecure_channel(self.address) as channel:
            stub = oip_grpc.GRPCInferenceServiceStub(channel)
            try:
                answer = stub.ModelReady(oip.ModelReadyRequest(name="bench"), timeout=timeout_s)
            except grpc.RpcError:
                return False
            return bool(answer.ready)


def servers() -> list[PythonPeer]:
    """Those that are installed."""
    return [peer for peer in SCRIPTS if peer.folder.exists()]


@contextmanager
def serving(peer: PythonPeer, where: Machine, model: Path, *, rows: int) -> Iterator[str | None]:
    """The address where it answers; None, and why, when it does not run here."""
    grpc_port, http_port = pick_ports(2)
    address = f"{LOOPBACK}:{grpc_port}"
    script = Path(__file__).with_name(SCRIPTS[peer])
    arguments = (str(grpc_port), str(http_port), str(model), str(rows))
    spec = ProcessSpec(
        name=peer.name,
        command=(*pinned(SERVICE_CORE), str(peer.python), str(script), *arguments),
        ready=ModelReady(address),
        # Triton's helper has to find this interpreter's library, not another one of the machine.
        environment=child_environment({"LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR")}),
    )
    with ExitStack() as started:
        try:
            started.enter_context(running(spec, where.folder))
        except Unavailable as err:
            say(f"{peer.name} {peer.version} does not run here: {err}")
            yield None
            return
        yield address

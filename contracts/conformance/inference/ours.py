# SPDX-License-Identifier: Apache-2.0
"""Our inference service with the models of the suite, behind a registry that rolled them out.

Two processes on a real Kafka; the models come as anybody's do: applied, registered, approved.
`python -m contracts.conformance.inference.ours DATA_DIR` gives them to a Headrace that runs.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import grpc
from contracts.conformance.inference.models import models as every_model

from headrace.admin import create_topics, static_topics
from headrace.application import Endpoint, Model, build_application
from headrace.client import Addresses, Client
from headrace.connection import connect
from headrace.local.ports import LOOPBACK, pick_ports
from headrace.local.process import Child
from headrace.local.service_process import service_process
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.oip import grpc_predict_v2_pb2_grpc as oip_grpc

SERVED_S_MAX = 30.0
LOOK_INTERVAL_S = 0.05


class Target(NamedTuple):
    """Where the server under test listens; without HTTP `rest` is empty."""

    grpc: str
    rest: str


@contextmanager
def our_service(
    bootstrap: str, folder: Path, models: Mapping[str, bytes], **settings: str
) -> Iterator[Target]:
    """Every model is version 1 of a model of its name, served at an endpoint of its name.

    `settings` of inference, without its prefix.
    """
    create_topics(bootstrap, static_topics())
    with ExitStack() as stack:
        registry = stack.enter_context(_running("registry", bootstrap, folder))
        _roll_out(Client(Addresses(kafka=bootstrap, registry=registry)), models)
        rest = f"{LOOPBACK}:{pick_ports(1)[0]}"
        told = {"REGISTRY_ADDRESS": registry, "REST_PORT": rest.rpartition(":")[2], **settings}
        address = stack.enter_context(_running("inference", bootstrap, folder, **told))
        _await(address, models)
        yield Target(address, rest)


@contextmanager
def _running(name: str, bootstrap: str, folder: Path, **settings: str) -> Iterator[str]:
    """The service's address, when it is ready."""
    grpc_port, http_port = pick_ports(2)
    told = {"KAFKA_BOOTSTRAP": bootstrap, "DATA_DIR": str(folder / name), **settings}
    child = Child(
        service_process(name, (grpc_port, http_port), told), folder / f"{name}.log", folder
    )
    try:
        child.wait_ready()
        yield f"{LOOPBACK}:{grpc_port}"
    finally:
        child.stop()


def _roll_out(client: Client, models: Mapping[str, bytes]) -> None:
    definitions = [
        definition
        for name in models
        for definition in (
            Model(name=name, description="Conformance."),
            Endpoint(name=name, description="Conformance.", model=name),
        )
    ]
    client.apply(build_application("conformance", definitions))
    for name, data in models.items():
        version = client.models.register(name, data)
        reference = f"models:/{name}/{version.version}"
        client.models.approve(reference, approver="conformance", reason="asked by its name")


def _await(address: str, models: Iterable[str]) -> None:
    """Ready is the service without any rollout too."""
    until_s, looking = time.monotonic() + SERVED_S_MAX, threading.Event()
    with grpc.insecure_channel(address) as channel:
        stub = oip_grpc.GRPCInferenceServiceStub(channel)
        for name in models:
            request = oip.ModelReadyRequest(name=name)
            while not stub.ModelReady(request, timeout=SERVED_S_MAX).ready:
                assert time.monotonic() < until_s, f"{name} is not served"
                looking.wait(LOOK_INTERVAL_S)


if __name__ == "__main__":
    _roll_out(connect(Path(sys.argv[1])), every_model())

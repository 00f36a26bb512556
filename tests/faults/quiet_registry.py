# SPDX-License-Identifier: Apache-2.0
"""A registry that knows of nothing that was taken back: an erasure asks it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from headrace.registry.v1 import registry_service_pb2 as pb
from headrace.registry.v1 import registry_service_pb2_grpc as pb_grpc


class QuietRegistry(pb_grpc.RegistryServiceServicer):
    """Served until `close`."""

    def __init__(self) -> None:
        self._server = grpc.server(ThreadPoolExecutor(2))
        pb_grpc.add_RegistryServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def ListDefinitions(self, request: Any, context: Any) -> pb.ListDefinitionsResponse:  # noqa: N802 - gRPC's name
        return pb.ListDefinitionsResponse()

    def close(self) -> None:
        self._server.stop(None)

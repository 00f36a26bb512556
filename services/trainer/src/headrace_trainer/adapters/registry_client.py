# SPDX-License-Identifier: Apache-2.0
"""ModelRegistryClient over the registry's gRPC: versions, and artifacts by their digest."""

from __future__ import annotations

from collections.abc import Iterable

import grpc

from headrace.artifacts import download, upload
from headrace.errors import Conflict, NotFound
from headrace.graph_signature import RegisteredTensor, RegisteredTensors
from headrace.model_reference import ModelReference
from headrace.registry.v1 import registry_events_pb2 as events
from headrace.registry.v1 import registry_service_pb2 as registry
from headrace.registry.v1 import registry_service_pb2_grpc as registry_grpc
from headrace_kit.grpc_client import call, calls_to
from headrace_trainer.ports import Champion, PinnedVersion

SERVICE = "registry"
CHAMPION = "champion"
CALL_TIMEOUT_S = 5.0


class GrpcModelRegistryClient:
    """Reads and writes models in the registry."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._registry = registry_grpc.RegistryServiceStub(channel)
        self._artifacts = registry_grpc.ArtifactServiceStub(channel)

    def champion(self, model: str) -> Champion | None:
        try:
            found = self._resolve(f"models:/{model}@{CHAMPION}")
        except NotFound as err:
            if err.reason == "ALIAS_UNKNOWN":
                return None
            raise
        return Champion(found.version, found.digest, tuple(found.trained.features))

    def pin(self, reference: ModelReference) -> PinnedVersion:
        found = self._resolve(str(reference))
        if found.gate.state != events.GATE_STATE_PASSED:
            raise Conflict("GATE_NOT_PASSED", model=found.model, version=found.version)
        signature = found.signature
        tensors = RegisteredTensors(
            tuple(_tensors(signature.inputs)),
            tuple(_tensors(signature.outputs)),
            tuple(found.trained.features),
        )
        return PinnedVersion(found.model, found.version, found.digest, tensors)

    def download(self, digest: str) -> bytes:
        with calls_to(SERVICE):
            return download(self._artifacts, digest)

    def upload(self, onnx: bytes) -> str:
        with calls_to(SERVICE):
            return upload(self._artifacts, onnx)

    def _resolve(self, reference: str) -> events.ModelVersion:
        """Raises NotFound ALIAS_UNKNOWN or VERSION_UNKNOWN."""
        request = registry.ResolveModelRequest(reference=reference)
        answer = call(
            self._registry.ResolveModel,
            request,
            service=SERVICE,
            timeout_s=CALL_TIMEOUT_S,
            retries_max=2,
        )
        return answer.version


def _tensors(signatures: Iterable[events.TensorSignature]) -> Iterable[RegisteredTensor]:
    return (RegisteredTensor(each.name, each.datatype, tuple(each.shape)) for each in signatures)

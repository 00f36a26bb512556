# SPDX-License-Identifier: Apache-2.0
"""The Open Inference Protocol v2 over gRPC: convert, call, convert.

The six base RPCs and RepositoryIndex. What is advertised works: `binary_tensor_data` is the only
extension. ModelReady answers false for a name that is unknown, as Triton does.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Protocol

import grpc

from headrace.errors import Conflict, HeadraceError, NotFound
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.oip import grpc_predict_v2_pb2_grpc as oip_grpc
from headrace_inference.adapters import conversions
from headrace_inference.domain.prediction import Prediction
from headrace_inference.domain.request import InferRequest
from headrace_inference.domain.serving import ServingTable
from headrace_inference.handlers import TooLate
from headrace_kit.failpoints import failpoint
from headrace_kit.grpc_server import GrpcServer, remaining_s
from headrace_kit.telemetry import counter

SERVICE_NAME = "inference.GRPCInferenceService"
SERVER_NAME = "headrace-inference"
EXTENSIONS = ("binary_tensor_data",)

successes = counter("inference", "request_success_total", "Requests answered.", "endpoint")
refusals = counter("inference", "request_failure_total", "Requests not answered.", "reason")
rows = counter("inference", "rows_total", "Rows answered.", "endpoint")


class Infer(Protocol):
    def __call__(self, request: InferRequest, *, time_left_s: Callable[[], float]) -> Prediction:
        """The handler `infer`, its ports bound."""


class InferenceApi(oip_grpc.GRPCInferenceServiceServicer):
    """Servicer of the protocol's RPCs."""

    def __init__(
        self, table: ServingTable, *, infer: Infer, ready: Callable[[], bool], rows_max: int
    ) -> None:
        self._table = table
        self._infer = infer
        self._ready = ready
        self._rows_max = rows_max

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any:
        return oip.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        return oip.ServerReadyResponse(ready=self._ready())

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            wanted = conversions.model_version(request.name, request.version)
            self._table.ready(request.name)[1].version(wanted)
        except (NotFound, Conflict):
            return oip.ModelReadyResponse(ready=False)
        return oip.ModelReadyResponse(ready=True)

    def ServerMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        return oip.ServerMetadataResponse(
            name=SERVER_NAME, version=version(SERVER_NAME), extensions=EXTENSIONS
        )

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        wanted = conversions.model_version(request.name, request.version)
        _, serving = self._table.ready(request.name)
        return conversions.model_metadata(request.name, serving, wanted)

    def RepositoryIndex(self, request: Any, context: grpc.ServicerContext) -> Any:
        states = {} if request.repository_name else self._table.states()
        return conversions.repository_index(states, ready_only=request.ready)

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            asked = conversions.infer_request(request, rows_max=self._rows_max)
            prediction = self._infer(asked, time_left_s=lambda: _time_left_s(context))
        except HeadraceError as err:
            refusals.labels(err.reason).inc()
            raise
        except TooLate:
            refusals.labels("DEADLINE").inc()
            context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "The deadline cannot be kept.")
        successes.labels(prediction.endpoint).inc()
        rows.labels(prediction.endpoint).inc(len(prediction.scores))
        raw = len(request.raw_input_contents) > 0
        return conversions.infer_response(prediction, asked.outputs, raw=raw)


class InferenceServer(GrpcServer):
    """The kit's server with a failpoint where a drain can be cut short (N4)."""

    def stop(self, timeout_s: float) -> None:
        failpoint("inference.drain.half")
        super().stop(timeout_s)


def _time_left_s(context: grpc.ServicerContext) -> float:
    """None is left for a caller that hung up: what was not begun is dropped."""
    return remaining_s(context) if context.is_active() else 0.0

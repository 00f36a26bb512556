# SPDX-License-Identifier: Apache-2.0
"""The Open Inference Protocol v2 over gRPC: convert, call, convert.

The six base RPCs and RepositoryIndex. What is advertised works: `binary_tensor_data` is the only
extension. ModelReady answers false for a name that is unknown, as Triton does.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from time import perf_counter_ns
from typing import Any, Protocol

import grpc

from headrace.errors import Conflict, HeadraceError, NotFound, Unavailable
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.oip import grpc_predict_v2_pb2_grpc as oip_grpc
from headrace.tokens import PREDICT
from headrace_inference.adapters import conversions
from headrace_inference.adapters.request_spans import told
from headrace_inference.domain.prediction import Prediction
from headrace_inference.domain.request import InferRequest
from headrace_inference.domain.serving import Ending, EndpointState, ServingTable
from headrace_inference.domain.statistics import Execution, Statistics
from headrace_kit import tracing
from headrace_kit.auth import calling
from headrace_kit.failpoints import failpoint
from headrace_kit.grpc_server import GrpcServer, remaining_s
from headrace_kit.telemetry import counter

SERVICE_NAME = "inference.GRPCInferenceService"
SERVER_NAME = "headrace-inference"
EXTENSIONS = ("binary_tensor_data",)
# Who may predict may ask about what answers; what changes the server needs all permissions.
ASKED_BY_PREDICTORS = (
    "ServerLive",
    "ServerReady",
    "ServerMetadata",
    "ModelReady",
    "ModelMetadata",
    "ModelInfer",
    "ModelStreamInfer",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
)
ACTIONS = {f"/{SERVICE_NAME}/{name}": PREDICT for name in ASKED_BY_PREDICTORS}

refusals = counter(
    "inference", "request_failure_total", "Requests not answered.", "endpoint", "reason"
)
NO_ENDPOINT = ""  # what callers call one may be anything


class Infer(Protocol):
    def __call__(
        self, request: InferRequest, *, time_left_s: Callable[[], float], ending: Ending | None
    ) -> Prediction:
        """The handler `infer`, its ports bound."""


class InferenceApi(oip_grpc.GRPCInferenceServiceServicer):
    """Servicer of the protocol's RPCs."""

    def __init__(
        self,
        table: ServingTable,
        *,
        infer: Infer,
        ready: Callable[[], bool],
        rows_max: int,
        statistics: Statistics,
    ) -> None:
        self._table = table
        self._statistics = statistics
        self._infer = infer
        self._ready = ready
        self._rows_max = rows_max

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any:
        return oip.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        return oip.ServerReadyResponse(ready=self._ready())

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        calling().require(PREDICT, request.name)
        try:
            wanted = conversions.model_version(request.name, request.version)
            self._table.ready(request.name)[1].version(wanted)
        except (NotFound, Conflict, Unavailable):  # the last of what is on its way
            return oip.ModelReadyResponse(ready=False)
        return oip.ModelReadyResponse(ready=True)

    def ServerMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        return oip.ServerMetadataResponse(
            name=SERVER_NAME, version=version(SERVER_NAME), extensions=EXTENSIONS
        )

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        calling().require(PREDICT, request.name)
        wanted = conversions.model_version(request.name, request.version)
        _, serving = self._table.ready(request.name)
        return conversions.model_metadata(request.name, serving, wanted)

    def RepositoryIndex(self, request: Any, context: grpc.ServicerContext) -> Any:
        states = {} if request.repository_name else self._permitted()
        return conversions.repository_index(states, ready_only=request.ready)

    def _permitted(self) -> dict[str, EndpointState]:
        """Those that the caller may ask: of others it does not learn the names."""
        caller, states = calling(), self._table.states()
        return {name: each for name, each in states.items() if caller.may_to(PREDICT, name)}

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self.answer(request, lambda: _time_left_s(context))

    def answer(
        self, request: Any, time_left_s: Callable[[], float], ending: Ending | None = None
    ) -> Any:
        """One ModelInfer call by itself."""
        begin_ns = perf_counter_ns()
        calling().require(PREDICT, request.model_name)
        try:
            asked = conversions.infer_request(request, rows_max=self._rows_max)
            read_ns = perf_counter_ns()
            prediction = self._infer(asked, time_left_s=time_left_s, ending=ending)
        except HeadraceError as err:
            self._count_failure(request, err.reason, perf_counter_ns() - begin_ns)
            raise
        if (span := tracing.current()) is not None:
            told(span, prediction, asked.id)
        raw = len(request.raw_input_contents) > 0
        answer = conversions.infer_response(prediction, asked.outputs, raw=raw)
        total_ns = perf_counter_ns() - begin_ns
        self._statistics.record(_execution(prediction, total_ns, decode_ns=read_ns - begin_ns))
        return answer

    def _count_failure(self, request: Any, reason: str, duration_ns: int) -> None:
        """Of no endpoint when none of that name is served; in the statistics under the version that
        was asked for, else the champion's.
        """
        name = request.model_name
        try:
            _, serving = self._table.ready(name)
        except HeadraceError:
            refusals.labels(NO_ENDPOINT, reason).inc()
            return
        refusals.labels(name, reason).inc()
        with suppress(HeadraceError):
            loaded = serving.version(conversions.model_version(name, request.model_version))
            self._statistics.record_failure(name, loaded.served.version, duration_ns=duration_ns)


class InferenceServer(GrpcServer):
    """The kit's server with a failpoint where a drain can be cut short (N4)."""

    def stop(self, timeout_s: float) -> None:
        failpoint("inference.drain.half")
        super().stop(timeout_s)


def _execution(prediction: Prediction, total_ns: int, *, decode_ns: int) -> Execution:
    """Each request is a run of its own."""
    input_ns = decode_ns + prediction.read_ns
    return Execution(
        endpoint=prediction.endpoint,
        version=prediction.served.version,
        rows=prediction.rows,
        totals_ns=[total_ns],
        queues_ns=[0],
        compute_input_ns=input_ns,
        compute_infer_ns=prediction.run_ns,
        compute_output_ns=total_ns - input_ns - prediction.run_ns,
        ended_at_us=prediction.served_at_us,
    )


def _time_left_s(context: grpc.ServicerContext) -> float:
    """None is left for a caller that hung up: what was not begun is dropped."""
    return remaining_s(context) if context.is_active() else 0.0

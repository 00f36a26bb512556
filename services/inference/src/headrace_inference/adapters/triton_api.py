# SPDX-License-Identifier: Apache-2.0
"""Triton's extensions of the protocol, beside the base RPCs.

The registry's rollout decides what is served, here as everywhere: a load waits for it, an unload is
refused. Whatever else is not offered says so with UNSUPPORTED. A stream and a load hold a worker
while they last, so that there are never so many of them that ordinary calls find none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import grpc

from headrace.errors import HeadraceError, Invalid, NotFound, Unavailable, error_by_reason
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.tokens import PREDICT
from headrace_inference.adapters import conversions, triton_conversions
from headrace_inference.adapters.grpc_api import InferenceApi
from headrace_inference.adapters.long_calls import LongCalls
from headrace_inference.adapters.tensor_codec import row_bytes
from headrace_inference.adapters.worker_statistics import OtherWorkers, added
from headrace_inference.domain.serving import NAME_SHOWN_MAX
from headrace_kit.auth import calling
from headrace_kit.error_status import to_status
from headrace_kit.grpc_server import remaining_s

EXTENSIONS = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "schedule_policy",
    "statistics",
)
LOAD_S_MAX = 30.0
LOOK_INTERVAL_S = 0.05
FINAL = "triton_final_response"


class TritonApi(InferenceApi):
    """Servicer of all RPCs; `wake` makes the loader look for rollouts at once."""

    def __init__(
        self,
        *args: Any,
        wake: Callable[[], None],
        log_level: str,
        long_calls_max: int,
        others: OtherWorkers,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._wake = wake
        self._log_level = log_level
        self._others = others
        self._long_calls = LongCalls(long_calls_max)
        self._never = threading.Event()

    def ServerMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        metadata = super().ServerMetadata(request, context)
        metadata.extensions[:] = EXTENSIONS
        return metadata

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        metadata = self.ModelMetadata(request, context)
        wanted = conversions.model_version(request.name, request.version)
        serving = self._table.ready(request.name)[1]
        loaded = serving.version(wanted)
        once = serving.choose(version=wanted, sticky_key="", tensors=True).rows_at_once(
            sum(row_bytes(spec.datatype, spec.shape) for spec in loaded.model.inputs)
        )
        config = triton_conversions.model_config(metadata, rows_max=min(self._rows_max, once))
        if loaded.served.features:
            triton_conversions.tell_shared_runs(config)
        else:
            triton_conversions.tell_rows(config, loaded.model.tried)
        return oip.ModelConfigResponse(config=config)

    def ModelStatistics(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Of all that is served when no name is given; the sums over all workers."""
        wanted = conversions.model_version(request.name, request.version)
        if request.name:
            calling().require(PREDICT, request.name)
            self._table.ready(request.name)[1].version(wanted)
        response = oip.ModelStatisticsResponse()
        others = self._others.statistics(request.name)
        for endpoint, version in self._served():
            if request.name in ("", endpoint) and wanted in (None, version):
                done = self._statistics.read(endpoint, version)
                own = triton_conversions.model_statistics(endpoint, version, done)
                response.model_stats.append(added(own, others))
        return response

    def ModelStreamInfer(
        self, requests: Iterator[Any], context: grpc.ServicerContext
    ) -> Iterator[Any]:
        """One answer for each request, in order; an error is an answer and ends nothing.

        An error carries the id of its request; every answer says that it is the final one, which
        `triton_enable_empty_final_response` asks for.
        """
        with self._long_calls.place():
            for request in requests:
                yield self._streamed(request, context)

    def RepositoryModelLoad(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Returns when the endpoint's rollout is served.

        Raises what kept its versions from loading, Unavailable SERVICE_UNAVAILABLE when they are
        still loading.
        """
        endpoint = _endpoint(request)
        if request.parameters:
            _refuse("a model and its configuration come from the registry only")
        with self._long_calls.place():
            self._wake()
            self._await_loaded(endpoint, context)
        self._table.ready(endpoint)
        return oip.RepositoryModelLoadResponse()

    def RepositoryModelUnload(self, request: Any, context: grpc.ServicerContext) -> Any:
        """OK for what is not loaded; raises Conflict ROLLOUT_DECIDES."""
        endpoint = _endpoint(request)
        state = self._table.state(endpoint)
        if state.definition is not None and state.serving is not None:
            raise error_by_reason("ROLLOUT_DECIDES", endpoint=endpoint)
        return oip.RepositoryModelUnloadResponse()

    def TraceSetting(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Raises Invalid UNSUPPORTED for a change."""
        response = triton_conversions.trace_settings()
        if any(triton_conversions.changed(response.settings, request.settings)):
            _refuse("traces are not set over the protocol")
        return response

    def LogSettings(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Raises Invalid UNSUPPORTED for a change: a caller must not turn off the log."""
        response = triton_conversions.log_settings(self._log_level)
        if any(triton_conversions.changed(response.settings, request.settings)):
            _refuse("the log is set by INFERENCE_LOG_LEVEL")
        return response

    def SystemSharedMemoryStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        _refuse("no shared memory: send raw contents")

    SystemSharedMemoryRegister = SystemSharedMemoryStatus
    SystemSharedMemoryUnregister = SystemSharedMemoryStatus
    CudaSharedMemoryStatus = SystemSharedMemoryStatus
    CudaSharedMemoryRegister = SystemSharedMemoryStatus
    CudaSharedMemoryUnregister = SystemSharedMemoryStatus

    def _served(self) -> Iterator[tuple[str, int]]:
        for endpoint, state in sorted(self._permitted().items()):
            for loaded in state.serving.loaded() if state.serving else ():
                yield endpoint, loaded.served.version

    def _streamed(self, request: Any, context: grpc.ServicerContext) -> Any:
        response = oip.ModelStreamInferResponse()
        try:
            response.infer_response.CopyFrom(self.ModelInfer(request, context))
        except HeadraceError as err:
            response.error_message = to_status(err).message
            response.infer_response.id = request.id
        response.infer_response.parameters[FINAL].bool_param = True
        return response

    def _await_loaded(self, endpoint: str, context: grpc.ServicerContext) -> None:
        until_s = time.monotonic() + remaining_s(context, cap_s=LOAD_S_MAX)
        while (state := self._table.state(endpoint)).pending:
            if state.refused is not None:
                raise error_by_reason(state.refused, endpoint=endpoint)
            if time.monotonic() > until_s or not context.is_active():
                raise Unavailable("SERVICE_UNAVAILABLE", endpoint=endpoint, state="loading")
            self._never.wait(LOOK_INTERVAL_S)


def _endpoint(request: Any) -> str:
    """KServe's client puts the name where Triton's puts the repository, of which we have one."""
    name, repository = request.model_name, request.repository_name
    if name and repository:
        raise NotFound("MODEL_UNKNOWN", repository=repository[:NAME_SHOWN_MAX])
    return str(name or repository)


def _refuse(problem: str) -> NoReturn:
    raise Invalid("UNSUPPORTED", problem=problem)

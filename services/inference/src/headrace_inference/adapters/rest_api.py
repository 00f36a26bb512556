# SPDX-License-Identifier: Apache-2.0
"""The protocol over HTTP: a path and a body become a message, and the servicer's RPC answers it.

So both doors give the same answers and errors, to the same callers; an inference is a hot call, as
over gRPC, and runs together with others. Paths are those of the Open Inference Protocol and of
Triton's extensions; nothing in them is percent-decoded, as no name needs it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from headrace.errors import Invalid, Unavailable
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace_inference.adapters import rest_conversions as conversions
from headrace_inference.adapters.grpc_api import SERVICE_NAME
from headrace_inference.adapters.triton_api import TritonApi
from headrace_kit import tracing
from headrace_kit.auth import Guard, calling, work_for
from headrace_kit.grpc_server import DEADLINE_S_MAX
from headrace_kit.hot_calls import Answer, HotCall
from headrace_kit.http_server import HttpError, HttpRequest, HttpResponse, Respond

JSON_BYTES = "Inference-Header-Content-Length"
MODEL = r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?"
REPOSITORY = "/v2/repository/models/(?P<name>[^/]+)"
SHARED_MEMORY = "/v2/(system|cuda)sharedmemory/.+"
Tell = Callable[..., HttpResponse]
# How soon it is seen that a caller hung up.
LOOK_INTERVAL_S = 0.05


class Route(NamedTuple):
    """`method` is the RPC that answers, which says who may call it."""

    verb: str
    pattern: re.Pattern[str]
    method: str
    answer: Tell


class RestContext:
    """As much of a ServicerContext as the servicer asks, for a call over HTTP."""

    def __init__(self, request: HttpRequest) -> None:
        self._until_s = time.monotonic() + DEADLINE_S_MAX
        self.is_active = request.connected

    def time_remaining(self) -> float:
        return self._until_s - time.monotonic()


class RestApi:
    """`admit` says who answers a request of the HTTP server, before its body is read."""

    def __init__(
        self, api: TritonApi, guard: Guard, *, take: Callable[[Sequence[HotCall]], None]
    ) -> None:
        self._api, self._guard, self._take = api, guard, take
        self._routes = [
            Route(verb, re.compile(pattern), method, answer)
            for verb, pattern, method, answer in self._table()
        ]

    def _table(self) -> Iterator[tuple[str, str, str, Tell]]:
        """A path that belongs to all models stands before one that could name a model so."""
        yield "GET", "/v2/?", "ServerMetadata", self._server_metadata
        yield "GET", "/v2/health/live", "ServerLive", self._server_live
        yield "GET", "/v2/health/ready", "ServerReady", self._server_ready
        yield "GET", "/v2/models/stats", "ModelStatistics", self._model_statistics
        yield "GET", MODEL, "ModelMetadata", self._model_metadata
        yield "GET", f"{MODEL}/ready", "ModelReady", self._model_ready
        yield "GET", f"{MODEL}/config", "ModelConfig", self._model_config
        yield "GET", f"{MODEL}/stats", "ModelStatistics", self._model_statistics
        yield "POST", f"{MODEL}/infer", "ModelInfer", self._infer
        yield "POST", "/v2/repository/index", "RepositoryIndex", self._repository_index
        yield "POST", f"{REPOSITORY}/load", "RepositoryModelLoad", self._load
        yield "POST", f"{REPOSITORY}/unload", "RepositoryModelUnload", self._unload
        for verb in ("GET", "POST"):
            yield verb, "/v2/logging", "LogSettings", self._log_settings
            yield verb, "/v2(/models/[^/]+)?/trace/setting", "TraceSetting", self._trace_settings
            yield verb, SHARED_MEMORY, "SystemSharedMemoryStatus", self._shared_memory

    def admit(self, method: str, path: str, headers: Mapping[str, str]) -> Respond:
        """What answers the request. Raises Denied, and HttpError 404 and 405."""
        found = [
            (route, match) for route in self._routes if (match := route.pattern.fullmatch(path))
        ]
        if not found:
            raise HttpError(404, "no such path")
        for route, match in found:
            if route.verb == method:
                rpc = f"/{SERVICE_NAME}/{route.method}"
                work_for(self._guard.admit(rpc, headers.items()))
                names = {key: value or "" for key, value in match.groupdict().items()}
                return partial(_respond, route.answer, names)
        raise HttpError(405, f"{' or '.join(sorted({route.verb for route, _ in found}))} only")

    def _server_metadata(self, _: HttpRequest, context: Any) -> HttpResponse:
        return _told(self._api.ServerMetadata(oip.ServerMetadataRequest(), context))

    def _server_live(self, _: HttpRequest, context: Any) -> HttpResponse:
        live = self._api.ServerLive(oip.ServerLiveRequest(), context).live
        return _answer({"live": live}, yes=live)

    def _server_ready(self, _: HttpRequest, context: Any) -> HttpResponse:
        ready = self._api.ServerReady(oip.ServerReadyRequest(), context).ready
        return _answer({"ready": ready}, yes=ready)

    def _model_metadata(
        self, _: HttpRequest, context: Any, name: str, version: str
    ) -> HttpResponse:
        request = oip.ModelMetadataRequest(name=name, version=version)
        return _told(self._api.ModelMetadata(request, context))

    def _model_ready(self, _: HttpRequest, context: Any, name: str, version: str) -> HttpResponse:
        request = oip.ModelReadyRequest(name=name, version=version)
        ready = self._api.ModelReady(request, context).ready
        return _answer({"name": name, "ready": ready}, yes=ready)

    def _model_config(self, _: HttpRequest, context: Any, name: str, version: str) -> HttpResponse:
        request = oip.ModelConfigRequest(name=name, version=version)
        return _told(self._api.ModelConfig(request, context).config)

    def _model_statistics(
        self, _: HttpRequest, context: Any, name: str = "", version: str = ""
    ) -> HttpResponse:
        request = oip.ModelStatisticsRequest(name=name, version=version)
        return _told(self._api.ModelStatistics(request, context))

    def _infer(self, asked: HttpRequest, context: Any, name: str, version: str) -> HttpResponse:
        wanted = conversions.infer_request(
            name, version, asked.body, asked.headers.get(JSON_BYTES.lower())
        )
        answer = self._answer(wanted.request.SerializeToString(), context.is_active)
        body = conversions.infer_response(oip.ModelInferResponse.FromString(answer), wanted)
        if body.json_bytes is None:
            return HttpResponse(body.data)
        headers = {JSON_BYTES: str(body.json_bytes)}
        return HttpResponse(body.data, content_type="application/octet-stream", headers=headers)

    def _answer(self, payload: bytes, connected: Callable[[], bool]) -> bytes:
        """Raises what it is refused by, Unavailable DEADLINE_UNMET also when the caller hung up."""
        answers: SimpleQueue[Answer | Exception] = SimpleQueue()
        now_s = time.monotonic()
        call = HotCall(
            payload,
            caller=calling(),
            arrived_s=now_s,
            deadline_s=now_s + DEADLINE_S_MAX,
            reply=lambda _, answer: answers.put(answer),
            span=tracing.current(),
        )
        self._take([call])
        while time.monotonic() < call.deadline_s:
            try:
                answer = answers.get(timeout=LOOK_INTERVAL_S)
            except Empty:
                if connected():
                    continue
                break
            if isinstance(answer, bytes):
                return answer
            raise answer
        call.cancel()
        raise Unavailable("DEADLINE_UNMET")

    def _repository_index(self, asked: HttpRequest, context: Any) -> HttpResponse:
        ready = conversions.json_object(asked.body).get("ready", False)
        if not isinstance(ready, bool):
            raise Invalid("BAD_REQUEST", field="ready")
        index = self._api.RepositoryIndex(oip.RepositoryIndexRequest(ready=ready), context)
        return _answer(conversions.as_json(index)["models"])

    def _load(self, asked: HttpRequest, context: Any, name: str) -> HttpResponse:
        request = oip.RepositoryModelLoadRequest(model_name=name)
        for parameter in conversions.load_parameters(asked.body):
            request.parameters[parameter].SetInParent()
        self._api.RepositoryModelLoad(request, context)
        return _answer({})

    def _unload(self, _: HttpRequest, context: Any, name: str) -> HttpResponse:
        request = oip.RepositoryModelUnloadRequest(model_name=name)
        self._api.RepositoryModelUnload(request, context)
        return _answer({})

    def _log_settings(self, asked: HttpRequest, context: Any) -> HttpResponse:
        request = oip.LogSettingsRequest()
        conversions.set_log_settings(request, conversions.json_object(asked.body))
        return _answer(conversions.setting_values(self._api.LogSettings(request, context)))

    def _trace_settings(self, asked: HttpRequest, context: Any) -> HttpResponse:
        request = oip.TraceSettingRequest()
        conversions.set_trace_settings(request, conversions.json_object(asked.body))
        return _answer(conversions.setting_values(self._api.TraceSetting(request, context)))

    def _shared_memory(self, _: HttpRequest, context: Any) -> HttpResponse:
        request = oip.SystemSharedMemoryStatusRequest()
        return _told(self._api.SystemSharedMemoryStatus(request, context))


def _respond(answer: Tell, names: Mapping[str, str], request: HttpRequest) -> HttpResponse:
    return answer(request, RestContext(request), **names)


def _told(message: Any) -> HttpResponse:
    return _answer(conversions.as_json(message))


def _answer(told: Any, *, yes: bool = True) -> HttpResponse:
    return HttpResponse(json.dumps(told).encode(), status=200 if yes else 503)

# SPDX-License-Identifier: Apache-2.0
"""Triton's extensions by direct calls, over a table whose endpoint answers with its version."""

import threading
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto

from headrace.errors import (
    Busy,
    Conflict,
    Corrupt,
    Denied,
    HeadraceError,
    NotFound,
    Unavailable,
)
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.tokens import Caller
from headrace_inference.adapters import onnx_runtime, triton_api
from headrace_inference.adapters.triton_api import TritonApi
from headrace_inference.adapters.worker_statistics import OtherWorkers
from headrace_inference.domain.rollout import Arm
from headrace_inference.domain.serving import ServingTable
from headrace_inference.domain.statistics import Execution, Statistics
from headrace_inference.handlers import predict, serve_rollout
from headrace_inference.testing import (
    MemoryArtifactStore,
    MemoryFeatureReader,
    a_model,
    a_rollout,
    a_running_sum,
    a_served_version,
    an_echo,
    an_endless_model,
    an_endpoint,
    models_of,
)
from headrace_kit.auth import work_for
from headrace_kit.testing import FixedClock


class Context:
    def __init__(self, left_s=5.0, *, active=True):
        self.left_s, self.active = left_s, active

    def time_remaining(self):
        return self.left_s

    def is_active(self):
        return self.active


class Api:
    """The servicer with its handler, in process; `woken` counts how often the loader was called."""

    def __init__(self, log_level="INFO"):
        self.table, self.statistics, self.woken = ServingTable(), Statistics(), 0
        self.artifacts = MemoryArtifactStore()
        self.table.define(an_endpoint())
        self.on_wake = lambda: None
        self.servicer = TritonApi(
            self.table,
            infer=self._infer,
            ready=lambda: True,
            rows_max=10,
            statistics=self.statistics,
            others=OtherWorkers([]),
            wake=self._wake,
            log_level=log_level,
            long_calls_max=1,
        )

    def call(self, method, request, context=None):
        return getattr(self.servicer, method)(request, context or Context())

    def stream(self, *requests):
        return list(self.servicer.ModelStreamInfer(iter(requests), Context()))

    def serve(self, rollout, *, run_bytes_max=1 << 30):
        for served in (rollout.champion, rollout.canary):
            if served is not None:
                self.artifacts.upload(a_model(float(served.version)))
        self.table.define(an_endpoint(rollout.endpoint))
        self.table.want(rollout)
        models = models_of(self.artifacts, run_bytes_max=run_bytes_max)
        serve_rollout(rollout, table=self.table, models=models)

    def _wake(self):
        self.woken += 1
        self.on_wake()

    def _infer(self, request, *, time_left_s, ending):
        return predict(
            request,
            table=self.table,
            features=MemoryFeatureReader(),
            clock=FixedClock(1_000_000),
            time_left_s=time_left_s,
            ending=ending,
            rows_max=10,
            explaining=nullcontext,
            on_failed=lambda _: None,
        )


def a_request(id="", *, rows=1, **fields):
    request = oip.ModelInferRequest(model_name="delay", id=id, **fields)
    request.inputs.add(name="features", datatype="FP32", shape=[rows, 3])
    request.raw_input_contents.append(np.zeros((rows, 3), dtype="<f4").tobytes())
    return request


def shared_memory_calls():
    service = oip.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    return [method.name for method in service.methods if "SharedMemory" in method.name]


@pytest.fixture
def api():
    return Api()


@pytest.fixture
def serving(api):
    api.serve(a_rollout(9, canary=10, percent=0))
    return api


def test_config_tells_of_no_more_rows_than_the_memory_of_a_run_holds(api, monkeypatch):
    monkeypatch.setattr(onnx_runtime, "NOISE_BYTES", 1 << 30)
    api.serve(a_rollout(9), run_bytes_max=3 * 3 * 4)

    config = api.call("ModelConfig", oip.ModelConfigRequest(name="delay")).config

    assert 3 == config.max_batch_size


def test_config_leaves_the_batch_out_of_the_shapes_and_names_the_loaded_versions(serving):
    config = serving.call("ModelConfig", oip.ModelConfigRequest(name="delay")).config

    assert ("delay", "onnxruntime_onnx", "onnxruntime") == (
        config.name,
        config.platform,
        config.backend,
    )
    assert 10 == config.max_batch_size
    assert [("features", oip.TYPE_FP32, [3])] == [
        (one.name, one.data_type, list(one.dims)) for one in config.input
    ]
    assert [
        ("score", oip.TYPE_FP32, []),
        ("features", oip.TYPE_FP32, [3]),
        ("prediction_id", oip.TYPE_STRING, []),
    ] == [(one.name, one.data_type, list(one.dims)) for one in config.output]
    assert [9, 10] == list(config.version_policy.specific.versions)
    assert not config.model_transaction_policy.decoupled


@pytest.mark.parametrize(
    ("onnx", "trial_s_max", "told", "shared"),
    [
        (an_echo(TensorProto.FLOAT), 60.0, "yes: each row is a prediction", True),
        (a_running_sum(), 60.0, "no: a request is one prediction", False),
        (an_endless_model(), 0.1, "not known: a request is one prediction", False),
    ],
    ids=["apart", "together", "unknown"],
)
def test_config_tells_whether_the_rows_of_a_model_stand_apart(
    api, monkeypatch, onnx, trial_s_max, told, shared
):
    monkeypatch.setattr(onnx_runtime, "ROWS_TRIAL_S_MAX", trial_s_max)
    api.artifacts.upload(onnx)
    api.serve(replace(a_rollout(), champion=a_served_version(1, onnx=onnx, features=())))

    config = api.call("ModelConfig", oip.ModelConfigRequest(name="delay")).config

    assert config.parameters["rows_apart"].string_value.startswith(told)
    assert shared == config.HasField("dynamic_batching")


def test_config_of_a_version_with_features_tells_that_rows_are_run_together_and_no_more(serving):
    config = serving.call("ModelConfig", oip.ModelConfigRequest(name="delay")).config

    assert config.HasField("dynamic_batching")
    assert not config.parameters


@pytest.mark.parametrize("method", ["ModelConfig", "ModelStatistics"])
@pytest.mark.parametrize(("name", "version"), [("nothing", ""), ("delay", "11"), ("delay", "x")])
def test_what_is_not_served_has_neither_config_nor_statistics(serving, method, name, version):
    request = getattr(oip, f"{method}Request")(name=name, version=version)

    with pytest.raises(NotFound, match="MODEL_UNKNOWN"):
        serving.call(method, request)


def test_statistics_grow_by_what_was_asked(serving):
    serving.stream(a_request(rows=2), a_request(rows=2), a_request(rows=3, model_version="77"))

    (done,) = serving.call(
        "ModelStatistics", oip.ModelStatisticsRequest(name="delay", version="9")
    ).model_stats
    assert ("delay", "9", 1_000) == (done.name, done.version, done.last_inference)
    assert (4, 2) == (done.inference_count, done.execution_count)
    stats = done.inference_stats
    assert (2, 2, 2) == (stats.success.count, stats.queue.count, stats.compute_infer.count)
    assert 0 < stats.compute_infer.ns < stats.success.ns
    assert [(2, 2)] == [(one.batch_size, one.compute_infer.count) for one in done.batch_stats]


def test_statistics_without_a_name_are_those_of_all_that_is_served(serving):
    serving.statistics.record(Execution("elsewhere", 1, 1, [1], [0], 0, 1, 0, 1))

    answer = serving.call("ModelStatistics", oip.ModelStatisticsRequest())

    assert [("delay", "9"), ("delay", "10")] == [
        (one.name, one.version) for one in answer.model_stats
    ]


def test_stream_answers_each_request_in_order_and_goes_on_after_an_error(serving):
    answers = serving.stream(
        a_request("a"), a_request("b", model_version="77"), a_request("c", model_version="10")
    )

    assert ["a", "b", "c"] == [answer.infer_response.id for answer in answers]
    assert ["9", "", "10"] == [answer.infer_response.model_version for answer in answers]
    assert [True, False, True] == [not answer.error_message for answer in answers]
    assert answers[1].error_message.startswith("MODEL_UNKNOWN")
    assert all(a.infer_response.parameters["triton_final_response"].bool_param for a in answers)


def test_stream_routes_by_the_entity_that_a_request_names(api):
    api.serve(a_rollout(9, canary=10, percent=50))
    keys = [f"UA-{number}" for number in range(20)]
    requests = [a_request(f"r-{key}") for key in keys]
    for request, key in zip(requests, keys, strict=True):
        request.parameters["entity_key"].string_param = key

    arm_of = api.table.ready("delay")[1].rollout.arm_of
    expected = ["10" if arm_of(key) is Arm.CANARY else "9" for key in keys]
    answers = api.stream(*requests)
    assert expected == [answer.infer_response.model_version for answer in answers]


def test_stream_takes_a_request_only_when_the_one_before_is_answered(serving):
    taken = []

    def requests():
        for name in ("a", "b"):
            taken.append(name)
            yield a_request(name)

    answers = serving.servicer.ModelStreamInfer(requests(), Context())
    next(answers)

    assert ["a"] == taken


def test_stream_too_many_is_refused_and_one_that_ended_makes_room(serving):
    open_stream = serving.servicer.ModelStreamInfer(iter([a_request()]), Context())
    next(open_stream)

    with pytest.raises(Busy, match="QUEUE_FULL"):
        serving.stream(a_request())
    open_stream.close()
    assert 1 == len(serving.stream(a_request()))


def test_load_wakes_the_loader_and_returns_when_the_rollout_is_served(api):
    rollout = a_rollout(1)
    api.table.want(rollout)
    loading = []

    def begin():
        loading.append(threading.Thread(target=api.serve, args=(rollout,)))
        loading[0].start()

    api.on_wake = begin
    api.call("RepositoryModelLoad", oip.RepositoryModelLoadRequest(model_name="delay"))

    assert (1, 1) == (api.woken, api.table.ready("delay")[1].champion.served.version)
    loading[0].join()


def test_load_tells_why_the_versions_do_not_load(api):
    rollout = a_rollout(1)
    api.table.want(rollout)
    api.table.refuse(rollout, "DIGEST_MISMATCH")

    with pytest.raises(Corrupt, match="DIGEST_MISMATCH"):
        api.call("RepositoryModelLoad", oip.RepositoryModelLoadRequest(model_name="delay"))


def test_load_waits_no_longer_than_the_caller(api):
    api.table.want(a_rollout(1))

    with pytest.raises(Unavailable, match="loading"):
        api.call(
            "RepositoryModelLoad",
            oip.RepositoryModelLoadRequest(model_name="delay"),
            Context(active=False),
        )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"model_name": "delay"}, "MODEL_NOT_READY"),
        ({"model_name": "nothing"}, "MODEL_UNKNOWN"),
        ({"model_name": "delay", "repository_name": "other"}, "MODEL_UNKNOWN"),
        ({}, "MODEL_UNKNOWN"),
        (
            {"model_name": "delay", "parameters": {"config": oip.ModelRepositoryParameter()}},
            "UNSUPPORTED",
        ),
    ],
)
def test_load_of_what_the_registry_does_not_roll_out_is_refused(api, fields, reason):
    with pytest.raises(HeadraceError, match=reason):
        api.call("RepositoryModelLoad", oip.RepositoryModelLoadRequest(**fields))


def test_name_in_the_first_field_alone_is_the_models_as_kserve_sends_it(serving):
    request = oip.RepositoryModelLoadRequest(repository_name="delay")

    serving.call("RepositoryModelLoad", request)

    assert 1 == serving.woken


def test_unload_is_refused_while_the_rollout_wants_it(serving):
    request = oip.RepositoryModelUnloadRequest(model_name="delay")

    with pytest.raises(Conflict, match="ROLLOUT_DECIDES"):
        serving.call("RepositoryModelUnload", request)
    serving.table.take_back("delay")
    serving.call("RepositoryModelUnload", request)


@pytest.mark.parametrize("method", shared_memory_calls())
def test_shared_memory_is_not_offered(api, method):
    with pytest.raises(HeadraceError, match="UNSUPPORTED"):
        api.call(method, getattr(oip, f"{method}Request")())


@pytest.mark.parametrize(
    ("level", "verbose", "shown"),
    [
        ("DEBUG", 1, ["log_error", "log_info", "log_warning"]),
        ("INFO", 0, ["log_error", "log_info", "log_warning"]),
        ("ERROR", 0, ["log_error"]),
        ("CRITICAL", 0, []),
    ],
)
def test_log_settings_tell_the_level(level, verbose, shown):
    settings = Api(level).call("LogSettings", oip.LogSettingsRequest()).settings

    assert verbose == settings["log_verbose_level"].uint32_param
    assert shown == sorted(name for name, value in settings.items() if value.bool_param)


def test_setting_the_log_to_what_it_is_changes_nothing_and_is_no_error(api):
    request = oip.LogSettingsRequest()
    request.settings["log_info"].bool_param = True

    assert api.call("LogSettings", request).settings["log_info"].bool_param


def test_neither_log_nor_traces_are_changed_over_the_protocol(api):
    log, trace = oip.LogSettingsRequest(), oip.TraceSettingRequest()
    log.settings["log_error"].bool_param = False
    trace.settings["trace_level"].value.append("TIMESTAMPS")

    for method, request in (("LogSettings", log), ("TraceSetting", trace)):
        with pytest.raises(HeadraceError, match="UNSUPPORTED"):
            api.call(method, request)
    assert ["OFF"] == list(
        api.call("TraceSetting", oip.TraceSettingRequest()).settings["trace_level"].value
    )


def test_extension_is_advertised_only_when_it_works(api):
    metadata = api.call("ServerMetadata", oip.ServerMetadataRequest())

    assert list(triton_api.EXTENSIONS) == list(metadata.extensions)
    assert not {"trace", "logging", "system_shared_memory"} & set(metadata.extensions)


def test_caller_learns_the_names_of_what_it_may_ask_alone(serving):
    serving.serve(a_rollout(11, endpoint="fraud"))

    def told(*permissions):
        work_for(Caller("shop", frozenset(permissions)))
        index = serving.call("RepositoryIndex", oip.RepositoryIndexRequest())
        statistics = serving.call("ModelStatistics", oip.ModelStatisticsRequest())
        return {one.name for one in index.models}, {one.name for one in statistics.model_stats}

    assert ({"delay"}, {"delay"}) == told("predict:delay")
    assert ({"fraud"}, {"fraud"}) == told("read", "predict:fr*")
    assert ({"delay", "fraud"}, {"delay", "fraud"}) == told("*")


@pytest.mark.parametrize(
    "method", ["ModelMetadata", "ModelReady", "ModelConfig", "ModelStatistics"]
)
def test_caller_learns_nothing_of_an_endpoint_that_it_may_not_ask(serving, method):
    serving.serve(a_rollout(11, endpoint="fraud"))
    work_for(Caller("shop", frozenset({"predict:delay"})))
    ask = getattr(oip, f"{method}Request")

    assert serving.call(method, ask(name="delay")) is not None
    for name in ("fraud", "unknown"):
        with pytest.raises(Denied, match="ACTION_FORBIDDEN"):
            serving.call(method, ask(name=name))

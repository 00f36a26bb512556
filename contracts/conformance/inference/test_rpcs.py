# SPDX-License-Identifier: Apache-2.0
"""Every RPC but the inferences: what a client may count on before it asks for an answer."""

from __future__ import annotations

import grpc
import pytest
from contracts.conformance.inference.asking import outcome, refused, simple_request
from contracts.conformance.inference.conftest import CALL_TIMEOUT_S
from contracts.conformance.inference.models import SIMPLE
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from headrace.oip import grpc_predict_v2_pb2 as oip

SERVICE = "inference.GRPCInferenceService"


@pytest.fixture(autouse=True)
def simple(held) -> str:
    return held(SIMPLE)


def test_server_is_live_and_ready(call):
    assert call("ServerLive", oip.ServerLiveRequest()).live
    assert call("ServerReady", oip.ServerReadyRequest()).ready


def test_server_has_a_name_and_a_version(call):
    told = call("ServerMetadata", oip.ServerMetadataRequest())

    assert told.name
    assert told.version


def test_extension_that_is_advertised_answers(call):
    requests = {
        "statistics": ("ModelStatistics", oip.ModelStatisticsRequest(name=SIMPLE)),
        "model_configuration": ("ModelConfig", oip.ModelConfigRequest(name=SIMPLE)),
        "model_repository": ("RepositoryIndex", oip.RepositoryIndexRequest()),
        "trace": ("TraceSetting", oip.TraceSettingRequest()),
        "logging": ("LogSettings", oip.LogSettingsRequest()),
    }
    for extension in call("ServerMetadata", oip.ServerMetadataRequest()).extensions:
        if extension in requests:
            call(*requests[extension])


def test_model_is_ready_by_name_and_by_version(call):
    (version, *_) = call("ModelMetadata", oip.ModelMetadataRequest(name=SIMPLE)).versions

    assert call("ModelReady", oip.ModelReadyRequest(name=SIMPLE)).ready
    assert call("ModelReady", oip.ModelReadyRequest(name=SIMPLE, version=version)).ready


def test_model_that_is_none_is_not_ready(call):
    """False, as Triton says, or NOT_FOUND: both are in use."""
    answers: list = []
    request = oip.ModelReadyRequest(name="no-such-model")
    code = outcome(lambda: answers.append(call("ModelReady", request)))

    assert code in (grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND)
    assert not any(answer.ready for answer in answers)


def test_metadata_names_tensors_types_and_shapes(call):
    told = call("ModelMetadata", oip.ModelMetadataRequest(name=SIMPLE))

    assert SIMPLE == told.name
    assert told.platform
    for tensors, names in (
        (told.inputs, ["INPUT0", "INPUT1"]),
        (told.outputs, ["OUTPUT0", "OUTPUT1"]),
    ):
        assert [(name, "INT32", [-1, 16]) for name in names] == sorted(
            (tensor.name, tensor.datatype, list(tensor.shape)) for tensor in tensors
        )


@pytest.mark.parametrize(
    ("extension", "method"),
    [
        ("", "ModelMetadata"),
        ("model_configuration", "ModelConfig"),
        ("statistics", "ModelStatistics"),
    ],
)
@pytest.mark.parametrize("asked", [{"name": "no-such-model"}, {"name": SIMPLE, "version": "999"}])
def test_what_is_not_there_is_not_found(call, offered, extension, method, asked):
    if extension:
        offered(extension)
    error = refused(lambda: call(method, getattr(oip, f"{method}Request")(**asked)))

    assert grpc.StatusCode.NOT_FOUND == error.code()


def test_index_lists_the_model_ready(call, offered):
    offered("model_repository")
    listed = call("RepositoryIndex", oip.RepositoryIndexRequest(ready=True)).models

    assert {"READY"} == {model.state for model in listed}
    assert SIMPLE in {model.name for model in listed}


def test_load_of_a_model_that_is_loaded_succeeds_and_of_none_does_not(call, offered):
    offered("model_repository")
    call("RepositoryModelLoad", oip.RepositoryModelLoadRequest(model_name=SIMPLE))
    missing = oip.RepositoryModelLoadRequest(model_name="no-such-model")

    error = refused(lambda: call("RepositoryModelLoad", missing))
    assert error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)


def test_unload_succeeds_or_says_that_the_state_forbids_it(call, offered):
    """A server whose models another one decides about may refuse, and goes on serving then."""
    offered("model_repository")
    request = oip.RepositoryModelUnloadRequest(model_name=SIMPLE)
    code = outcome(lambda: call("RepositoryModelUnload", request))

    assert code in (grpc.StatusCode.OK, grpc.StatusCode.FAILED_PRECONDITION)
    if code == grpc.StatusCode.OK:
        call("RepositoryModelLoad", oip.RepositoryModelLoadRequest(model_name=SIMPLE))
    assert call("ModelReady", oip.ModelReadyRequest(name=SIMPLE)).ready


@pytest.mark.parametrize("kind", ["System", "Cuda"])
@pytest.mark.parametrize("what", ["Status", "Register", "Unregister"])
def test_shared_memory_answers_or_is_unimplemented(call, kind, what):
    method = f"{kind}SharedMemory{what}"
    code = outcome(lambda: call(method, getattr(oip, f"{method}Request")()))

    assert code in (
        grpc.StatusCode.OK,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INVALID_ARGUMENT,
    )


@pytest.mark.parametrize(
    ("extension", "method"), [("trace", "TraceSetting"), ("logging", "LogSettings")]
)
def test_settings_are_told(call, offered, extension, method):
    offered(extension)

    assert call(method, getattr(oip, f"{method}Request")()).settings


def test_setting_that_is_none_is_refused(call, offered):
    offered("logging")
    request = oip.LogSettingsRequest()
    request.settings["no_such_setting"].bool_param = True

    error = refused(lambda: call("LogSettings", request))
    assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED)


def test_config_agrees_with_the_metadata(call, offered):
    """What perf_analyzer reads: the batch counts for the first size of the metadata's shapes."""
    offered("model_configuration")
    metadata = call("ModelMetadata", oip.ModelMetadataRequest(name=SIMPLE))
    config = call("ModelConfig", oip.ModelConfigRequest(name=SIMPLE)).config

    begin = 1 if config.max_batch_size > 0 else 0
    assert [(t.name, f"TYPE_{t.datatype}", list(t.shape[begin:])) for t in metadata.inputs] == [
        (t.name, oip.DataType.Name(t.data_type), list(t.dims)) for t in config.input
    ]
    assert [(t.name, list(t.shape[begin:])) for t in metadata.outputs] == [
        (t.name, list(t.dims)) for t in config.output
    ]
    assert SIMPLE == config.name
    assert not config.model_transaction_policy.decoupled


def test_statistics_grow_by_what_is_asked(call, offered):
    """What perf_analyzer reads before and after: requests, rows, runs, durations."""
    offered("statistics")

    def read():
        (one,) = call("ModelStatistics", oip.ModelStatisticsRequest(name=SIMPLE)).model_stats
        return one

    before = read()
    for _ in range(3):
        call("ModelInfer", simple_request(rows=2))
    refused(lambda: call("ModelInfer", simple_request(rows=2, model_version="999")))
    after = read()

    grown, had = after.inference_stats, before.inference_stats
    assert 3 == grown.success.count - had.success.count
    assert 6 == after.inference_count - before.inference_count
    assert 1 <= after.execution_count - before.execution_count <= 3
    assert 3 == grown.compute_infer.count - had.compute_infer.count
    assert grown.compute_infer.ns > had.compute_infer.ns
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    spent_ns = sum(getattr(grown, part).ns - getattr(had, part).ns for part in parts)
    assert spent_ns <= grown.success.ns - had.success.ns
    assert after.last_inference >= before.last_inference > 0 or before.last_inference == 0


def test_health_is_serving_for_the_server_and_for_the_service(channel):
    health = health_pb2_grpc.HealthStub(channel)

    for name in ("", SERVICE):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=CALL_TIMEOUT_S)
        assert health_pb2.HealthCheckResponse.SERVING == answer.status


def test_reflection_lists_the_service_and_describes_it(channel):
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
    ]
    listed, described = reflection.ServerReflectionInfo(iter(asked), timeout=CALL_TIMEOUT_S)

    assert SERVICE in {service.name for service in listed.list_services_response.service}
    assert described.file_descriptor_response.file_descriptor_proto

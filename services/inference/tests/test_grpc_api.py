# SPDX-License-Identifier: Apache-2.0
"""The protocol's RPCs by direct calls: what comes in, what goes out, raw when asked raw."""

from dataclasses import replace

import numpy as np
import pytest

from headrace.errors import HeadraceError, Unavailable
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace_inference.adapters import conversions
from headrace_inference.adapters.grpc_api import InferenceApi
from headrace_inference.domain.prediction import Prediction, prediction_ids
from headrace_inference.domain.request import Door
from headrace_inference.domain.rollout import Arm
from headrace_inference.domain.serving import ServingTable
from headrace_inference.domain.statistics import Duration, Statistics
from headrace_inference.handlers import serve_rollout
from headrace_inference.testing import (
    FEATURES,
    MemoryArtifactStore,
    a_model,
    a_rollout,
    a_served_version,
    a_tensor,
    an_endpoint,
    models_of,
)


class Context:
    """As much of a ServicerContext as the servicer asks."""

    def __init__(self, left_s=5.0, *, active=True):
        self.left_s, self.active = left_s, active

    def time_remaining(self):
        return self.left_s

    def is_active(self):
        return self.active


class Api:
    """The servicer over a table; `asked` holds what the handler was given, `answer` its result."""

    def __init__(self):
        self.table, self.artifacts = ServingTable(), MemoryArtifactStore()
        self.asked, self.left_s, self.answer = [], [], None
        self.table.define(an_endpoint())
        self.statistics = Statistics()
        self.servicer = InferenceApi(
            self.table,
            infer=self._infer,
            ready=lambda: True,
            rows_max=10,
            statistics=self.statistics,
        )

    def _infer(self, request, *, time_left_s, ending):
        self.asked.append(request)
        self.left_s.append(time_left_s())
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer or a_prediction(request.id)

    def serve(self, rollout):
        for served in (rollout.champion, rollout.canary):
            if served is not None:
                self.artifacts.upload(a_model(float(served.version)))
        self.table.want(rollout)
        serve_rollout(
            rollout,
            table=self.table,
            models=models_of(self.artifacts),
        )

    def infer(self, request, context=None):
        return self.servicer.ModelInfer(request, context or Context())


def a_prediction(request_id="r-1", rows=2):
    features = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    return Prediction(
        request_id=request_id,
        endpoint="delay",
        model="delay-model",
        served=a_served_version(7),
        arm=Arm.CHAMPION,
        rollout_generation=1,
        door=Door.TENSORS,
        entity_keys=[""] * rows,
        as_of_us=np.ones(rows, dtype=np.int64),
        inputs={"features": a_tensor("features", "FP32", features)},
        outputs={"score": a_tensor("score", "FP32", [0.25, 0.75])},
        shadow=None,
        served_at_us=1,
        ids=prediction_ids(request_id, "delay", rows),
    )


def a_raw_request(**fields):
    request = oip.ModelInferRequest(model_name="delay", **fields)
    request.inputs.add(name="features", datatype="FP32", shape=[2, 3])
    request.raw_input_contents.append(np.zeros((2, 3), dtype="<f4").tobytes())
    return request


def a_typed_request():
    request = oip.ModelInferRequest(model_name="delay")
    tensor = request.inputs.add(name="features", datatype="FP32", shape=[2, 3])
    tensor.contents.fp32_contents.extend([0.0] * 6)
    return request


@pytest.fixture
def api():
    return Api()


def test_answer_is_raw_when_the_request_was(api):
    answer = api.infer(a_raw_request(id="r-1"))

    assert ("delay", "7", "r-1") == (answer.model_name, answer.model_version, answer.id)
    assert [("score", "FP32", [2]), ("prediction_id", "BYTES", [2])] == [
        (tensor.name, tensor.datatype, list(tensor.shape)) for tensor in answer.outputs
    ]
    np.testing.assert_array_equal(
        [0.25, 0.75], np.frombuffer(answer.raw_output_contents[0], dtype="<f4")
    )
    expected = b"".join(
        b"\x20\0\0\0" + i.encode() for i in prediction_ids("r-1", "delay", 2).each()
    )
    assert expected == answer.raw_output_contents[1]
    assert not any(tensor.HasField("contents") for tensor in answer.outputs)


def test_answer_is_typed_when_the_request_was(api):
    request = a_typed_request()
    for name in ("prediction_id", "features", "score"):
        request.outputs.add(name=name)

    ids, features, scores = api.infer(request).outputs

    assert 2 == len(ids.contents.bytes_contents)
    assert ([2, 3], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]) == (
        list(features.shape),
        list(features.contents.fp32_contents),
    )
    assert [0.25, 0.75] == list(scores.contents.fp32_contents)


def test_columns_of_attributions_are_named(api):
    moved = {"attributions": a_tensor("attributions", "FP32", np.ones((2, 3)))}
    api.answer = replace(a_prediction(), attributions=moved)
    request = a_raw_request()
    for name in ("attributions", "score"):
        request.outputs.add(name=name)

    attributions, score = api.infer(request).outputs

    assert ",".join(FEATURES) == attributions.parameters["features"].string_param
    assert "features" not in score.parameters


def test_request_without_an_id_gets_one_of_its_own(api):
    ids = {api.infer(a_raw_request()).id for _ in range(5)}

    assert 5 == len(ids - {""})


def test_unknown_parameters_of_all_five_kinds_are_ignored(api):
    request = a_raw_request()
    request.parameters["sequence_start"].bool_param = True
    request.parameters["timeout"].int64_param = 5
    request.parameters["headers"].string_param = "x"
    request.parameters["temperature"].double_param = 0.5
    request.parameters["priority"].uint64_param = 1

    api.infer(request)

    assert api.asked[0].as_of_us is None


@pytest.mark.parametrize("kind", ["int64_param", "uint64_param"])
def test_as_of_comes_as_a_whole_number(api, kind):
    request = a_raw_request()
    setattr(request.parameters["as_of_us"], kind, 17)

    api.infer(request)

    assert 17 == api.asked[0].as_of_us


def test_named_version_reaches_the_handler(api):
    api.infer(a_raw_request(model_version="12"))

    assert 12 == api.asked[0].version


def without_raw(request):
    del request.raw_input_contents[:]
    return request


def mixed():
    request = a_raw_request()
    request.inputs[0].contents.fp32_contents.extend([0.0] * 6)
    return request


def two_fields():
    request = a_typed_request()
    request.inputs[0].contents.int64_contents.append(1)
    return request


def twice():
    request = a_raw_request()
    request.inputs.add(name="features", datatype="FP32", shape=[2, 3])
    request.raw_input_contents.append(request.raw_input_contents[0])
    return request


def one_raw_missing():
    request = a_raw_request()
    request.inputs.add(name="as_of_us", datatype="INT64", shape=[2])
    return request


def as_of(**choice):
    request = a_raw_request()
    request.parameters["as_of_us"].CopyFrom(oip.InferParameter(**choice))
    return request


def overflowing():
    request = a_raw_request()
    request.inputs[0].shape[:] = [2**31, 2**31]
    return request


def test_as_many_inputs_are_read_as_a_model_may_have():
    request = oip.ModelInferRequest(model_name="delay")
    for number in range(64):
        tensor = request.inputs.add(name=f"x{number}", datatype="FP32", shape=[1])
        tensor.contents.fp32_contents.append(number)

    assert 64 == len(conversions.infer_request(request, rows_max=1).inputs)


def crowded():
    request = oip.ModelInferRequest(model_name="delay")
    for number in range(65):
        request.inputs.add(name=f"x{number}", datatype="FP32", shape=[1])
    return request


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (mixed(), "TENSOR_CONTENT"),
        (two_fields(), "TENSOR_CONTENT"),
        (one_raw_missing(), "TENSOR_CONTENT"),
        (without_raw(a_raw_request()), "TENSOR_SIZE"),
        (overflowing(), "TENSOR_SIZE"),
        (twice(), "TENSOR_NAME"),
        (crowded(), "TOO_MANY_INPUTS"),
        (as_of(string_param="now"), "BAD_REQUEST"),
        (as_of(double_param=1.0), "BAD_REQUEST"),
        (as_of(bool_param=True), "BAD_REQUEST"),
        (a_raw_request(id="x" * 257), "BAD_REQUEST"),
        (a_raw_request(model_version="latest"), "MODEL_UNKNOWN"),
        (a_raw_request(model_version="-1"), "MODEL_UNKNOWN"),
        (a_raw_request(model_version="9" * 40), "MODEL_UNKNOWN"),
    ],
)
def test_request_that_cannot_be_read_is_refused(api, request_, reason):
    with pytest.raises(HeadraceError) as refused:
        api.infer(request_)

    assert reason == refused.value.reason
    assert [] == api.asked


def test_names_of_the_caller_are_cut_in_errors(api):
    request = a_raw_request()
    request.inputs[0].name, request.inputs[0].datatype = "n" * 10_000, "d" * 10_000

    with pytest.raises(HeadraceError) as refused:
        api.infer(request)
    assert len(str(refused.value)) < 500


def test_answer_is_counted_with_what_it_took(api):
    api.answer = replace(a_prediction(), read_ns=3, run_ns=50)
    api.infer(a_raw_request())

    done = api.statistics.read("delay", 7)
    compute = done.compute
    assert (1, 2, Duration(1, 50)) == (done.success.count, done.rows, compute.infer)
    assert done.success.ns == compute.input.ns + compute.infer.ns + compute.output.ns
    assert compute.input.ns > 3
    assert compute.output.ns > 0


@pytest.mark.parametrize(("asked", "version"), [("", 9), ("10", 10)])
def test_refusal_is_counted_under_the_version_asked_for_or_the_champion(api, asked, version):
    api.serve(a_rollout(9, canary=10))
    api.answer = Unavailable("DEADLINE_UNMET")

    with pytest.raises(Unavailable):
        api.infer(a_raw_request(model_version=asked))
    assert 1 == api.statistics.read("delay", version).fail.count


def test_caller_that_hung_up_has_no_time_left(api):
    api.infer(a_raw_request(), Context(active=False))
    api.infer(a_raw_request(), Context(left_s=2.0))
    api.infer(a_raw_request(), Context(left_s=None))

    assert [0.0, 2.0, 60.0] == api.left_s


def test_metadata_lists_the_versions_that_are_loaded(api):
    api.serve(a_rollout(9, canary=10))

    metadata = api.servicer.ModelMetadata(oip.ModelMetadataRequest(name="delay"), Context())

    assert (["9", "10"], "onnxruntime_onnx") == (list(metadata.versions), metadata.platform)
    assert [("features", "FP32", [-1, 3])] == [
        (tensor.name, tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs
    ]
    assert [("score", [-1]), ("features", [-1, 3]), ("prediction_id", [-1])] == [
        (tensor.name, list(tensor.shape)) for tensor in metadata.outputs
    ]


@pytest.mark.parametrize(
    ("name", "version", "reason"),
    [
        ("delay", "", "MODEL_NOT_READY"),
        ("nothing", "", "MODEL_UNKNOWN"),
        ("delay", "x", "MODEL_UNKNOWN"),
    ],
)
def test_metadata_of_what_is_not_there_says_why(api, name, version, reason):
    with pytest.raises(HeadraceError, match=reason):
        api.servicer.ModelMetadata(oip.ModelMetadataRequest(name=name, version=version), Context())


def test_model_that_is_on_its_way_is_not_ready(api):
    def ready():
        return api.servicer.ModelReady(oip.ModelReadyRequest(name="delay"), Context()).ready

    api.table.want(a_rollout(1))
    assert not ready()
    api.table.refuse(a_rollout(1), "SERVICE_UNAVAILABLE")
    assert not ready()
    api.serve(a_rollout(1))
    assert ready()


def index(api, **asked):
    answer = api.servicer.RepositoryIndex(oip.RepositoryIndexRequest(**asked), Context())
    return [(m.name, m.version, m.state, m.reason) for m in answer.models]


def test_index_tells_ready_loading_and_refused_versions(api):
    assert [("delay", "", "UNAVAILABLE", "MODEL_NOT_READY")] == index(api)

    api.table.want(a_rollout(1))
    assert [("delay", "1", "LOADING", "")] == index(api)

    api.serve(a_rollout(1, generation=2))
    refused = a_rollout(1, canary=3, generation=3)
    api.table.want(refused)
    api.table.refuse(refused, "DIGEST_MISMATCH")
    ready = ("delay", "1", "READY", "")
    assert [ready, ("delay", "3", "UNAVAILABLE", "DIGEST_MISMATCH")] == index(api)
    assert [ready] == index(api, ready=True)
    assert [] == index(api, repository_name="another")

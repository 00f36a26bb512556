# SPDX-License-Identifier: Apache-2.0
"""The protocol over HTTP by direct calls: JSON, binary tensors, paths, over an echoing servicer."""

# ruff: noqa: N802 - the names of the proto

import json
import time

import numpy as np
import pytest

from headrace.errors import Busy, HeadraceError, Invalid, NotFound
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.tokens import issue_token
from headrace_inference.adapters import rest_api, rest_conversions
from headrace_inference.adapters.grpc_api import ACTIONS
from headrace_inference.adapters.rest_api import RestApi
from headrace_inference.adapters.tensor_codec import STEP
from headrace_kit import json_strict
from headrace_kit.auth import Guard, calling
from headrace_kit.http_server import HttpError, HttpRequest

JSON_BYTES = "inference-header-content-length"


class Servicer:
    """Answers every input as an output of the same name, and notes what it was asked."""

    def __init__(self):
        self.asked = []
        self.ready = True

    def ModelInfer(self, request, context):
        self.asked.append(request)
        answer = oip.ModelInferResponse(
            model_name=request.model_name, model_version=request.model_version or "7", id=request.id
        )
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            answer.raw_output_contents.append(raw)
        return answer

    def ServerReady(self, request, context):
        return oip.ServerReadyResponse(ready=self.ready)

    def ModelReady(self, request, context):
        self.asked.append(request)
        return oip.ModelReadyResponse(ready=self.ready)

    def ModelStatistics(self, request, context):
        self.asked.append(request)
        answer = oip.ModelStatisticsResponse()
        one = answer.model_stats.add(name="delay", version="7", inference_count=2**40)
        one.batch_stats.add(batch_size=3)
        return answer

    def ModelConfig(self, request, context):
        config = oip.ModelConfig(name=request.name, max_batch_size=10)
        config.input.add(name="x", data_type="TYPE_FP32", dims=[3])
        config.version_policy.specific.versions.append(7)
        return oip.ModelConfigResponse(config=config)

    def RepositoryIndex(self, request, context):
        self.asked.append(request)
        answer = oip.RepositoryIndexResponse()
        answer.models.add(name="delay", version="7", state="READY")
        return answer

    def RepositoryModelLoad(self, request, context):
        self.asked.append(request)
        if request.model_name != "delay":
            raise NotFound("MODEL_UNKNOWN", endpoint=request.model_name)
        return oip.RepositoryModelLoadResponse()

    def LogSettings(self, request, context):
        self.asked.append(request)
        answer = oip.LogSettingsResponse()
        answer.settings["log_info"].bool_param = False
        answer.settings["log_verbose_level"].uint32_param = 0
        return answer

    def TraceSetting(self, request, context):
        self.asked.append(request)
        answer = oip.TraceSettingResponse()
        answer.settings["trace_level"].value.append("OFF")
        return answer


class Door:
    """Hot calls are answered by the servicer, unless `answer` is given or `holds` them."""

    def __init__(self, tokens_file=None):
        self.servicer, self.calls, self.answer, self.holds = Servicer(), [], None, False
        guard = Guard("inference", tokens_file, actions=ACTIONS)
        self.admit = RestApi(self.servicer, guard, take=self.take).admit
        self.connected = True

    def take(self, calls):
        self.calls += calls
        for call in () if self.holds else calls:
            request = oip.ModelInferRequest.FromString(call.payload)
            call.answer(self.answer or self.servicer.ModelInfer(request, None).SerializeToString())

    def call(self, method, path, body=b"", **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        respond = self.admit(method, path, headers)
        return respond(HttpRequest(method, path, headers, data, lambda: self.connected))

    def get(self, path):
        return json.loads(self.call("GET", path).body)

    def post(self, path, body=b""):
        return json.loads(self.call("POST", path, body).body)

    def infer(self, *inputs, path="/v2/models/delay/infer", **fields):
        return self.post(path, {"inputs": list(inputs), **fields})


@pytest.fixture
def door():
    return Door()


def an_input(data, *, datatype="FP32", shape=None, name="x", **fields):
    return {
        "name": name,
        "datatype": datatype,
        "shape": shape or [len(data)],
        "data": data,
        **fields,
    }


def binary(values, *, name="x", datatype="FP32", size=None):
    raw = values.tobytes()
    head = {"name": name, "datatype": datatype, "shape": list(values.shape)}
    return head | {"parameters": {"binary_data_size": len(raw) if size is None else size}}, raw


def test_tensor_comes_flat_or_nested_and_goes_flat(door):
    flat = door.infer(an_input([1, 2.5, None, 4], shape=[2, 2]), id="r-1")
    nested = door.infer(an_input([[1, 2.5], [None, 4]], shape=[2, 2]))

    told = {"name": "x", "datatype": "FP32", "shape": [2, 2]}
    assert [{**told, "data": [1.0, 2.5, None, 4.0]}] == flat["outputs"] == nested["outputs"]
    assert ("delay", "7", "r-1") == (flat["model_name"], flat["model_version"], flat["id"])


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("BOOL", [True, False]),
        ("UINT8", [0, 255]),
        ("UINT16", [0, 65_535]),
        ("UINT32", [0, 2**32 - 1]),
        ("UINT64", [0, 2**63 - 1]),
        ("INT8", [-128, 127]),
        ("INT16", [-(2**15), 2**15 - 1]),
        ("INT32", [-(2**31), 2**31 - 1]),
        ("INT64", [-(2**63), 2**63 - 1]),
        ("FP16", [0.5, -2.0]),
        ("FP32", [0.1, -1.0]),
        ("FP64", [0.1, 1e300]),
        ("BYTES", ["", "über"]),
    ],
)
def test_values_of_each_type_come_back_as_they_went(door, datatype, data):
    (output,) = door.infer(an_input(data, datatype=datatype))["outputs"]

    assert pytest.approx(data) == output["data"] if datatype == "FP32" else data == output["data"]


def test_binary_tensors_stand_behind_the_json_in_the_order_of_the_inputs(door):
    x, x_raw = binary(np.array([[1.0, 2.0]], dtype="<f4"))
    y, y_raw = binary(np.array([3], dtype="<i8"), name="y", datatype="INT64")
    head = json.dumps(
        {"inputs": [x, an_input([5.0], name="z"), y], "outputs": [
            {"name": "x", "parameters": {"binary_data": True}}, {"name": "y"}]}
    ).encode()  # fmt: skip
    answer = door.call(
        "POST",
        "/v2/models/delay/versions/3/infer",
        head + x_raw + y_raw,
        **{JSON_BYTES: str(len(head))},
    )

    (asked,) = door.servicer.asked
    assert "3" == asked.model_version
    assert [x_raw, np.float32(5.0).tobytes(), y_raw] == list(asked.raw_input_contents)
    end = int(answer.headers["Inference-Header-Content-Length"])
    outputs = json.loads(answer.body[:end])["outputs"]
    assert ({"binary_data_size": 8}, x_raw) == (outputs[0]["parameters"], answer.body[end:])
    assert [[5.0], [3]] == [output["data"] for output in outputs[1:]]
    assert "application/octet-stream" == answer.content_type


def test_all_outputs_are_binary_when_that_is_asked_for(door):
    body = {"inputs": [an_input([1.0])], "parameters": {"binary_data_output": True, "priority": 1}}
    answer = door.call("POST", "/v2/models/delay/infer", body)

    end = int(answer.headers["Inference-Header-Content-Length"])
    assert np.float32(1.0).tobytes() == answer.body[end:]
    (asked,) = door.servicer.asked
    assert ["priority"] == list(asked.parameters)
    assert 1 == asked.parameters["priority"].int64_param


def with_header(value):
    def send(door):
        door.call("POST", "/v2/models/delay/infer", {"inputs": []}, **{JSON_BYTES: value})

    return send


def with_binary(*, size=None, behind=b"", **more):
    def send(door):
        tensor, raw = binary(np.zeros(2, dtype="<f4"), size=size)
        head = json.dumps({"inputs": [{**tensor, **more}]}).encode()
        path, headers = "/v2/models/delay/infer", {JSON_BYTES: str(len(head))}
        door.call("POST", path, head + raw + behind, **headers)

    return send


def with_body(body):
    return lambda door: door.call("POST", "/v2/models/delay/infer", body)


def with_input(*arguments, **fields):
    return lambda door: door.infer(an_input(*arguments, **fields))


@pytest.mark.parametrize(
    ("send", "reason"),
    [
        (with_body(b"{"), "DECODE_ERROR"),
        (with_body(b'{"inputs":' + b"[" * 100 + b"]" * 100 + b"}"), "DECODE_ERROR"),
        (with_body([]), "BAD_REQUEST"),
        (with_body(b'{"inputs": [], "inputs": []}'), "BAD_REQUEST"),
        (with_body(b'{"inputs": [{"data": [NaN]}]}'), "BAD_REQUEST"),
        (with_body({"inputs": {}}), "BAD_REQUEST"),
        (with_body({"inputs": ["x"]}), "BAD_REQUEST"),
        (with_body({"inputs": [{"name": "x"}]}), "BAD_REQUEST"),
        (with_body({"id": 7, "inputs": []}), "BAD_REQUEST"),
        (with_body({"parameters": {"a": [1]}, "inputs": []}), "BAD_REQUEST"),
        (with_body({"inputs": [], "outputs": [{"name": 1}]}), "BAD_REQUEST"),
        (with_input([1.0], datatype=7), "BAD_REQUEST"),
        (with_input([1.0], datatype="FP8"), "TENSOR_DTYPE"),
        (with_input([1.0], datatype="BF16"), "TENSOR_DTYPE"),
        (with_input([1.0], shape=["1"]), "TENSOR_SHAPE"),
        (with_input([1.0], shape=[True]), "TENSOR_SHAPE"),
        (with_input(["1"]), "TENSOR_CONTENT"),
        (with_input([True]), "TENSOR_CONTENT"),
        (with_input([1.5], datatype="INT32"), "TENSOR_CONTENT"),
        (with_input([None], datatype="INT32"), "TENSOR_CONTENT"),
        (with_input([256], datatype="UINT8"), "TENSOR_CONTENT"),
        (with_input([-1], datatype="UINT64"), "TENSOR_CONTENT"),
        (with_input([1e39]), "TENSOR_CONTENT"),
        (with_input([1, [2]]), "TENSOR_CONTENT"),
        (with_input([7], datatype="BYTES"), "TENSOR_CONTENT"),
        (with_input([1.0], parameters={"shared_memory_region": "r"}), "UNSUPPORTED"),
        (with_body({"parameters": {"binary_data_output": "false"}}), "BAD_REQUEST"),
        (with_body({"outputs": [{"name": "x", "parameters": {"binary_data": 1}}]}), "BAD_REQUEST"),
        (with_header("99"), "BAD_REQUEST"),
        (with_header("-1"), "BAD_REQUEST"),
        (with_header("1e3"), "BAD_REQUEST"),
        (with_header("²"), "BAD_REQUEST"),
        (with_binary(size=9), "TENSOR_SIZE"),
        (with_binary(size=-1), "TENSOR_SIZE"),
        (with_binary(size=True), "TENSOR_SIZE"),
        (with_binary(size="8"), "TENSOR_SIZE"),
        (with_binary(behind=b"x"), "TENSOR_SIZE"),
        (with_binary(data=[1.0, 2.0]), "TENSOR_SIZE"),
    ],
)
def test_body_that_cannot_be_read_is_refused_before_the_servicer(door, send, reason):
    with pytest.raises(HeadraceError) as refused:
        send(door)

    assert reason == refused.value.reason
    assert [] == door.servicer.asked


@pytest.mark.parametrize("inputs", [[{}] * 257, [[]] * 257])
def test_inputs_are_counted_before_they_are_read(door, inputs):
    with pytest.raises(Busy) as refused:
        door.call("POST", "/v2/models/delay/infer", {"inputs": inputs})

    assert ("TOO_MANY_INPUTS", "257") == (refused.value.reason, refused.value.metadata["inputs"])


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [{}] * 10_001},
        {"inputs": [], "outputs": [{}] * 10_001},
        {"inputs": [], "parameters": {f"p{number}": 1 for number in range(10_001)}},
    ],
    ids=["inputs", "outputs", "parameters"],
)
def test_crowd_is_refused_before_it_is_decoded(door, body, monkeypatch):
    monkeypatch.setattr(json_strict, "decode", lambda _: pytest.fail("decoded"))

    with pytest.raises(Busy, match="TOO_MANY_INPUTS"):
        door.call("POST", "/v2/models/delay/infer", body)


@pytest.mark.parametrize("path", ["/v2/repository/index", "/v2/logging"])
def test_crowd_is_refused_wherever_a_body_is_taken(door, path, monkeypatch):
    monkeypatch.setattr(json_strict, "decode", lambda _: pytest.fail("decoded"))

    with pytest.raises(Busy, match="TOO_MANY_INPUTS"):
        door.call("POST", path, {"a": [{}] * 10_001})


def test_texts_of_a_tensor_are_no_crowd(door):
    texts = ['12:30 {"a": "b\\"}'] * 10_001
    (output,) = door.infer(an_input(texts, datatype="BYTES"))["outputs"]

    assert texts == output["data"]


def a_body_of(values, *, size, datatype="INT32"):
    """JSON as it comes, which no test needs to write value by value."""
    shape = f"[{size}]".encode()
    return b'{"inputs":[{"name":"x","datatype":"%s","shape":%s,"data":[%s]}]}' % (
        datatype.encode(),
        shape,
        b",".join(values),
    )


@pytest.mark.parametrize(
    "values",
    [
        [b"1"] * 1_000_001,
        [b'""'] * 1_000_001,
        [b'":"'] * 1_100_000,
        [b"[]"] * 500_001,
        [b"[1,2,3]"] * 250_001,
    ],
    ids=["numbers", "texts", "texts with colons", "lists", "rows"],
)
def test_values_are_counted_before_they_are_decoded(door, values, monkeypatch):
    monkeypatch.setattr(json_strict, "decode", lambda _: pytest.fail("decoded"))

    with pytest.raises(Busy, match="MESSAGE_TOO_LARGE") as refused:
        door.call("POST", "/v2/models/delay/infer", a_body_of(values, size=len(values)))
    assert {"values_max": "1000000"} == refused.value.metadata


def test_texts_full_of_commas_are_few_values(door):
    text = "[1,2,\\" * 200_000
    (output,) = door.infer(an_input([text, "b"], datatype="BYTES"))["outputs"]

    assert [text, "b"] == output["data"]


@pytest.mark.parametrize("row", [b"-3", b"[-3]", b"[[-3]]"])
def test_many_values_are_read_as_they_are(door, row):
    size = 100_000
    values = [row.replace(b"3", b"%d" % number) for number in range(size)]
    told = door.call("POST", "/v2/models/delay/infer", a_body_of(values, size=size))
    (output,) = json.loads(told.body)["outputs"]

    assert [-number for number in range(size)] == output["data"]


@pytest.mark.parametrize("last", [1.5, float("nan")])
def test_many_values_are_told_in_steps_so_that_others_have_their_turn(door, last, monkeypatch):
    encode, lengths = json.dumps, []

    def noted(told, **how):
        lengths.extend([len(told)] if isinstance(told, list) else [])
        return encode(told, **how)

    monkeypatch.setattr(rest_conversions.json, "dumps", noted)
    values = np.array([*range(2 * STEP), last], np.float64)
    tensor, content = binary(values, datatype="FP64")
    head = encode({"inputs": [tensor]}).encode()
    headers = {JSON_BYTES: str(len(head))}
    answer = door.call("POST", "/v2/models/delay/infer", head + content, **headers)

    expected = [*range(2 * STEP), last if np.isfinite(last) else None]
    assert expected == json.loads(answer.body)["outputs"][0]["data"]
    assert [STEP, STEP, 1] == lengths


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_infinity_is_told_as_binary_and_never_as_what_null_means(door, value):
    tensor, content = binary(np.array([1.0, value], np.float32), datatype="FP32")

    def ask(**output):
        body = json.dumps({"inputs": [tensor], **output}).encode()
        headers = {JSON_BYTES: str(len(body))}
        return door.call("POST", "/v2/models/delay/infer", body + content, **headers)

    with pytest.raises(Invalid, match="TENSOR_CONTENT") as refused:
        ask()
    answered = ask(parameters={"binary_data_output": True})

    assert "binary_data" in refused.value.metadata["problem"]
    assert answered.body.endswith(content)


def test_mistake_in_a_body_is_told_in_the_words_of_a_request(door):
    for body in ([], b'{"id": NaN}', {"inputs": {}}, b'{"id": "a", "id": "b"}'):
        with pytest.raises(HeadraceError) as refused:
            door.call("POST", "/v2/models/delay/infer", body)
        assert {"field", "problem"} == set(refused.value.metadata)
        assert not {"column", "contract", "record", "dict"} & set(
            str(refused.value).lower().split()
        )


def test_inference_is_a_hot_call_of_its_caller(guarded):
    door, shown = guarded
    before_s = time.monotonic()
    door.call("POST", "/v2/models/delay/infer", {"inputs": []}, **shown)

    (call,) = door.calls
    assert "shop" == call.caller.name
    assert before_s <= call.arrived_s < call.deadline_s - 1.0
    assert not call.cancelled


def test_refusal_of_a_hot_call_is_the_answer(door):
    door.answer = Busy("QUEUE_FULL")

    with pytest.raises(Busy, match="QUEUE_FULL"):
        door.infer(an_input([1.0]))


def test_hot_call_of_a_caller_that_hangs_up_is_cancelled(door):
    door.holds, door.connected = True, False

    with pytest.raises(HeadraceError, match="DEADLINE_UNMET"):
        door.infer(an_input([1.0]))

    assert [True] == [call.cancelled for call in door.calls]


def test_hot_call_without_an_answer_ends_at_its_deadline(door, monkeypatch):
    monkeypatch.setattr(rest_api, "DEADLINE_S_MAX", 0.1)
    door.holds = True

    with pytest.raises(HeadraceError, match="DEADLINE_UNMET"):
        door.infer(an_input([1.0]))

    assert [True] == [call.cancelled for call in door.calls]


def test_output_that_is_no_text_is_to_be_asked_for_as_binary(door):
    raw = b"\x01\0\0\0\xff"
    tensor = {"name": "x", "datatype": "BYTES", "shape": [1]}
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": 5}}]}).encode()

    with pytest.raises(HeadraceError, match="ask for binary_data"):
        door.call("POST", "/v2/models/delay/infer", head + raw, **{JSON_BYTES: str(len(head))})


def test_numbers_stay_numbers_and_types_are_named(door):
    (done,) = door.get("/v2/models/delay/stats")["model_stats"]
    config = door.get("/v2/models/delay/config")

    assert (2**40, 3) == (done["inference_count"], done["batch_stats"][0]["batch_size"])
    assert ("TYPE_FP32", [3]) == (config["input"][0]["data_type"], config["input"][0]["dims"])
    assert {"specific": {"versions": [7]}} == config["version_policy"]


@pytest.mark.parametrize(
    ("path", "name", "version"),
    [
        ("/v2/models/delay/stats", "delay", ""),
        ("/v2/models/delay/versions/7/stats", "delay", "7"),
        ("/v2/models/stats", "", ""),
    ],
)
def test_statistics_of_one_or_of_all(door, path, name, version):
    door.get(path)

    (asked,) = door.servicer.asked
    assert (name, version) == (asked.name, asked.version)


@pytest.mark.parametrize("path", ["/v2/health/ready", "/v2/models/delay/ready"])
def test_status_says_ready_or_not(door, path):
    statuses = []
    for door.servicer.ready in (True, False):
        statuses.append(door.call("GET", path).status)

    assert [200, 503] == statuses


def test_index_is_a_list(door):
    expected = {"name": "delay", "version": "7", "state": "READY", "reason": ""}

    assert [expected] == door.post("/v2/repository/index", {"ready": True})
    assert [expected] == door.post("/v2/repository/index")
    assert [True, False] == [asked.ready for asked in door.servicer.asked]


@pytest.mark.parametrize("parameters", [5, True, [1], ["config"], "config"])
def test_load_with_parameters_that_are_no_object_is_the_callers_mistake(door, parameters):
    with pytest.raises(Invalid, match=r"BAD_REQUEST.*field=parameters"):
        door.post("/v2/repository/models/delay/load", {"parameters": parameters})

    assert [] == door.servicer.asked


def test_load_passes_on_that_there_are_parameters(door):
    door.post("/v2/repository/models/delay/load", {"parameters": {"config": "{}"}})

    (asked,) = door.servicer.asked
    assert ("delay", ["config"]) == (asked.model_name, list(asked.parameters))


def test_settings_are_told_flat_and_taken_by_kind(door):
    assert {"log_info": False, "log_verbose_level": 0} == door.get("/v2/logging")
    assert {"trace_level": ["OFF"]} == door.get("/v2/models/delay/trace/setting")

    door.post("/v2/logging", {"log_info": True, "log_verbose_level": 1, "log_file": "x"})
    settings = door.servicer.asked[-1].settings
    assert (True, 1, "x") == (
        settings["log_info"].bool_param,
        settings["log_verbose_level"].uint32_param,
        settings["log_file"].string_param,
    )
    with pytest.raises(HeadraceError, match="BAD_REQUEST"):
        door.post("/v2/logging", {"log_verbose_level": -1})


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v3", 404),
        ("GET", "/v2/models", 404),
        ("GET", "/v2/models//ready", 404),
        ("GET", "/v2/models/a/b/ready", 404),
        ("GET", "/v2/models/delay/infer", 405),
        ("POST", "/v2/models/delay/config", 405),
        ("DELETE", "/v2", 405),
        ("HEAD", "/v2", 405),
    ],
)
def test_path_or_method_that_is_none_is_told_so(door, method, path, status):
    with pytest.raises(HttpError) as refused:
        door.call(method, path)

    assert status == refused.value.status


@pytest.fixture
def guarded(tmp_path):
    """A door with a tokens file, and the token of a caller that may ask one endpoint."""
    file = tmp_path / "tokens.json"
    token = issue_token(file, "shop", ["predict:delay"])
    return Door(file), {"authorization": f"Bearer {token}"}


@pytest.mark.parametrize("shown", [{}, {"authorization": "Bearer x"}, {"authorization": "Basic x"}])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/health/ready"),
        ("GET", "/v2/models/delay/stats"),
        ("POST", "/v2/models/delay/infer"),
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/delay/load"),
        ("GET", "/v2/logging"),
        ("GET", "/v2/systemsharedmemory/status"),
    ],
)
def test_nobody_is_admitted_without_a_token(guarded, method, path, shown):
    door, _ = guarded
    with pytest.raises(HeadraceError, match="TOKEN_UNKNOWN"):
        door.admit(method, path, shown)


def test_caller_with_a_token_is_known_to_the_servicer_and_may_do_no_more(guarded):
    door, shown = guarded
    door.call("POST", "/v2/models/delay/infer", {"inputs": []}, **shown)

    assert "shop" == calling().name
    with pytest.raises(HeadraceError, match="ACTION_FORBIDDEN"):
        door.call("POST", "/v2/repository/models/delay/load", **shown)

# SPDX-License-Identifier: Apache-2.0
"""Requests to inference, by gRPC's hot door, by HTTP, and by Kafka, over real models.

Each is answered or refused by a reason that is the caller's or a limit's, as it would be alone,
and the sound request that comes with it is answered as ever.
"""

from __future__ import annotations

import json
import time
from itertools import count
from queue import SimpleQueue
from typing import Any

from google.protobuf.message import DecodeError
from onnx import TensorProto
from services.inference.tests import test_hot_infer as hot
from services.inference.tests import test_kafka_requests as kafka
from tests.fuzz.campaign import Broken, Judge

from headrace.errors import HeadraceError
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.reasons import REASONS
from headrace_inference.adapters.grpc_api import ACTIONS
from headrace_inference.adapters.rest_api import RestApi
from headrace_inference.testing import MemoryFeatureReader, a_model, an_adder, an_echo
from headrace_kit.auth import EVERYBODY, Guard, work_for
from headrace_kit.hot_calls import HotCall
from headrace_kit.http_server import HttpRequest

NEIGHBOUR = 5.0
# A score of infinity is the model's own answer to infinity.
OF_NUMBERS = "MODEL_NONFINITE"
ANSWERED_S_MAX, LATE = 60.0, "DEADLINE_UNMET"
JSON_BYTES = "inference-header-content-length"
ECHOES = {
    "texts": TensorProto.STRING,
    "halves": TensorProto.FLOAT16,
    "bits": TensorProto.BFLOAT16,
    "flags": TensorProto.BOOL,
}


def a_door() -> hot.Door:
    door = hot.Door()
    door.features.read = MemoryFeatureReader().read
    door.serve(a_model(1.0))
    door.serve(an_adder(), features=(), endpoint="adder")
    for name, element in ECHOES.items():
        door.serve(an_echo(element), features=(), endpoint=name)
    return door


def messages() -> list[bytes]:
    of_texts = oip.ModelInferRequest(model_name="texts", id="t")
    of_texts.inputs.add(name="x", datatype="BYTES", shape=[1, 2])
    of_texts.raw_input_contents.append(hot.encode_raw([b"a", b"\xff"]))
    of_halves, of_bits, of_flags = (oip.ModelInferRequest(model_name=n) for n in list(ECHOES)[1:])
    for message, kind, raw in (
        (of_halves, "FP16", bytes(8)),
        (of_bits, "BF16", bytes(8)),
        (of_flags, "BOOL", b"\0\1\1\0"),
    ):
        message.inputs.add(name="x", datatype=kind, shape=[2, 2])
        message.raw_input_contents.append(raw)
    adder = hot.two_inputs(2, outputs=["OUTPUT1"])
    adder.model_name = "adder"
    named = hot.a_request(1.0, id="r-1", priority=1)
    named.parameters["entity_key"].string_param = "UA-1"
    found = [
        hot.a_request(1.0),
        hot.a_request(1.0, 2.0, id="r-2", outputs=["score"]),
        named,
        hot.a_request(1.0, id="r", version="10", timeout=30_000_000),
        hot.a_typed_request(2.0),
        hot.by_keys("1", "2"),
        hot.by_keys("3", id="k", raw=False, explain=1),
        hot.in_shared_memory(hot.a_request(1.0)),
        *(adder, of_texts, of_halves, of_bits, of_flags),
    ]
    return [message.SerializeToString(deterministic=True) for message in found]


def hot_judge() -> Judge:
    door = a_door()
    sound = hot.a_request(NEIGHBOUR, id="neighbour").SerializeToString()

    def judge(data: bytes) -> str:
        door.log.predictions.clear()
        door.log.traces.clear()
        (first,) = _taken(door, data)
        _outcome(first)
        told, neighbour = _taken(door, data, sound)  # of a form that is known by now
        if isinstance(neighbour, Exception) or [NEIGHBOUR + 1] != hot.scores(neighbour):
            raise Broken(f"the request beside it is answered so: {neighbour}")
        answers = (first, told, _alone(door, data))
        if LATE not in map(_reason, answers) and len({*map(_said, answers)}) > 1:
            raise Broken(f"answered otherwise than alone: {[*map(_reason, answers)]}")
        return _outcome(told)

    return judge


def _taken(door: hot.Door, *payloads: bytes) -> list[Any]:
    """Calls that come together; without a look now and then, which would take most of the time."""
    answers: SimpleQueue[tuple[int, Any]] = SimpleQueue()
    now_s = time.monotonic()
    door.hot.take(
        [
            HotCall(
                payload,
                caller=EVERYBODY,
                arrived_s=now_s,
                deadline_s=now_s + ANSWERED_S_MAX,
                reply=lambda call, answer: answers.put((call.key, answer)),
                key=key,
            )
            for key, payload in enumerate(payloads)
        ]
    )
    found: dict[int, Any] = {}
    while len(found) < len(payloads):
        key, answer = answers.get(timeout=ANSWERED_S_MAX)
        found.setdefault(key, answer)  # as a door does: LateCalls may answer at the same moment
    return [
        oip.ModelInferResponse.FromString(found[key]) if isinstance(found[key], bytes)
        else found[key]
        for key in range(len(payloads))
    ]  # fmt: skip


def _alone(door: hot.Door, data: bytes) -> Any:
    work_for(EVERYBODY)
    try:
        return door.api.answer(oip.ModelInferRequest.FromString(data), lambda: 60.0)
    except DecodeError:
        return HeadraceError("DECODE_ERROR")
    except HeadraceError as err:
        return err


def _reason(answer: Any) -> str:
    return getattr(answer, "reason", type(answer).__name__)


def _said(answer: Any) -> tuple[Any, ...]:
    """All but the ids, which are made for a request that has none; of several mistakes any one."""
    if isinstance(answer, Exception):
        return ("refused",)
    contents = list(answer.raw_output_contents) or [b""] * len(answer.outputs)
    outputs = [
        (each.SerializeToString(deterministic=True), raw)
        for each, raw in zip(answer.outputs, contents, strict=True)
        if each.name != "prediction_id"
    ]
    return answer.model_version, *outputs


def _outcome(answer: Any) -> str:
    if not isinstance(answer, Exception):
        return "answered"
    if not isinstance(answer, HeadraceError):
        raise Broken(f"{type(answer).__name__} came out: {str(answer)[:200]}")
    return _no_bug(answer.reason)


def _no_bug(reason: str) -> str:
    if REASONS[reason].kind == "Bug" and reason != OF_NUMBERS:
        raise Broken(f"refused by {reason}")
    return reason


def bodies() -> list[bytes]:
    """As HTTP has them, behind a line that says how much is JSON, or is empty."""
    row = {"name": "features", "datatype": "FP32", "shape": [1, 3]}
    keys = [
        {"name": "flight_id", "datatype": "BYTES", "shape": [1], "data": ["1"]},
        {"name": "distance", "datatype": "FP64", "shape": [1], "data": [100.0]},
        {"name": "minutes", "datatype": "INT64", "shape": [1], "data": [5]},
    ]
    asked: list[dict[str, Any]] = [
        {"inputs": [{**row, "data": [1.0, 2, None]}]},
        {"id": "r", "inputs": [{**row, "data": [[1.0, 2.0, 3.0]]}], "outputs": [{"name": "score"}]},
        {"inputs": keys, "parameters": {"priority": 2, "timeout": 9_000_000}},
        {"inputs": keys, "outputs": [{"name": "score", "parameters": {"binary_data": True}}]},
    ]
    binary = json.dumps({"inputs": [{**row, "parameters": {"binary_data_size": 12}}]}).encode()
    return [
        *(b"\n" + json.dumps(each).encode() for each in asked),
        b"%d\n%s%s" % (len(binary), binary, bytes(12)),
    ]


def rest_judge() -> Judge:
    door = a_door()
    rest = RestApi(door.api, Guard("inference", None, actions=ACTIONS), take=door.hot.take)
    path = "/v2/models/delay/infer"

    def judge(data: bytes) -> str:
        door.log.predictions.clear()
        size, _, body = data.partition(b"\n")
        headers = {JSON_BYTES: size.decode("latin-1")} if size else {}
        try:
            respond = rest.admit("POST", path, headers)
            answer = respond(HttpRequest("POST", path, headers, body, lambda: True))
        except HeadraceError as err:
            return _no_bug(err.reason)
        if JSON_BYTES not in {name.lower() for name in answer.headers}:
            json.loads(answer.body)
        return "answered"

    return judge


def record_judge() -> Judge:
    worker = kafka.Worker().serve(1)
    offsets = count(step=2)
    sound = kafka.asked(0.25, id="neighbour")

    def judge(data: bytes) -> str:
        worker.publisher.published.clear()
        at = next(offsets)
        worker.handle(kafka.a_request(data, at), kafka.a_request(sound, at + 1))
        answered = {offset: told for _, offset, told in _answers(worker)}
        if {at, at + 1} != {*answered} or answered[at + 1] != "answered":
            raise Broken(f"of two records these are answered: {answered}")
        return _no_bug(answered[at]) if answered[at] in REASONS else answered[at]

    return judge


def _answers(worker: kafka.Worker) -> list[tuple[int, int, str]]:
    found = []
    for event in worker.events():
        for offset in event.request_offsets:
            found.append((event.request_partition, offset, "answered"))
        for each in event.refused:
            found.append((event.request_partition, each.request_offset, each.reason))
    return found

# SPDX-License-Identifier: Apache-2.0
"""The hot door: calls that fit together run together, and each gets what it would get alone."""

import gc
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from headrace.errors import Busy, Conflict, Invalid, NotFound, Unavailable
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.tokens import Caller
from headrace.tracing import TRACEPARENT
from headrace_inference.adapters import entity_runs, hot_infer, lanes, onnx_runtime, plans
from headrace_inference.adapters.entity_runs import EntityRuns
from headrace_inference.adapters.grpc_api import ACTIONS, InferenceApi
from headrace_inference.adapters.hot_infer import HotInfer
from headrace_inference.adapters.late_calls import ANSWERED_MAX, LateCalls
from headrace_inference.adapters.request_counters import RequestCounters
from headrace_inference.adapters.rest_api import RestApi
from headrace_inference.adapters.shared_runs import Kind
from headrace_inference.adapters.tensor_codec import DATATYPES, encode_raw
from headrace_inference.domain.request import FeatureRows
from headrace_inference.domain.rollout import Arm, Rollout
from headrace_inference.domain.serving import ServingTable
from headrace_inference.domain.statistics import Statistics
from headrace_inference.handlers import infer, predict, predict_together, serve_rollout
from headrace_inference.testing import (
    MemoryArtifactStore,
    MemoryFeatureReader,
    MemoryPredictionLog,
    a_failing_model,
    a_model,
    a_running_sum,
    a_served_version,
    a_spreading_model,
    an_adder,
    an_echo,
    an_endless_model,
    an_endpoint,
    models_of,
)
from headrace_kit import tracing
from headrace_kit.auth import EVERYBODY, Guard, work_for
from headrace_kit.clock import SystemClock
from headrace_kit.hot_calls import HotCall, Together
from headrace_kit.http_server import HttpRequest
from headrace_kit.testing import a_traceparent, recorded_spans, wait_until
from headrace_kit.tracing import call_span

# Of which an endpoint has four.
WORKERS, SHARE = 32, 4


@dataclass
class GatedFeatures(MemoryFeatureReader):
    """The first feature is the number in the entity's name; nobody called `lost` is known. Reading
    waits for the gate.
    """

    gate: threading.Event = field(default_factory=threading.Event)
    reads: list[list[str]] = field(default_factory=list)

    def __post_init__(self):
        self.gate.set()

    def read(self, features, batch, *, prediction_ids, timeout_s):
        keys = list(batch.entity_keys)
        self.reads.append(keys)
        assert self.gate.wait(30)
        if "stale" in keys:
            raise Conflict("FEATURES_STALE", known_until_us=1, now_us=2)
        if "lost" in keys:
            raise NotFound("FEATURE_UNKNOWN", feature="a")
        first = [float(key) for key in keys]
        values = [[x, *[0.0] * (len(features) - 1)] for x in first]
        return FeatureRows(np.array(values, np.float32))


class Door:
    """HotInfer over a real table and runtime; calls come and are answered in memory."""

    def __init__(self, *, rows_max=100):
        self.table, self.log, self.statistics = ServingTable(), MemoryPredictionLog(), Statistics()
        self.artifacts, self.generation, self.failures = MemoryArtifactStore(), 0, []
        self.models, self.features = models_of(self.artifacts), GatedFeatures()
        shared = {"table": self.table, "log": self.log, "clock": SystemClock()}

        bound = {
            "table": self.table,
            "features": self.features,
            "clock": SystemClock(),
            "rows_max": rows_max,
            "explaining": nullcontext,
            "on_failed": self.note_failure,
        }

        self.api = InferenceApi(
            self.table,
            infer=partial(infer, predict=partial(predict, **bound), log=self.log),
            ready=lambda: True,
            rows_max=rows_max,
            statistics=self.statistics,
        )
        counters = RequestCounters(self.statistics)
        late = LateCalls()
        entities = EntityRuns(
            self.table,
            predict=partial(
                predict_together,
                features=bound["features"],
                now_us=SystemClock().now_us,
                on_failed=self.note_failure,
            ),
            log=self.log,
            clock=SystemClock(),
            counters=counters,
            rows_max=rows_max,
            late=late,
        )
        self.hot = HotInfer(
            servicer=self.api.answer,
            predict=partial(predict, **bound),
            late=late,
            entities=entities,
            counters=counters,
            rows_max=rows_max,
            workers=WORKERS,
            on_failed=self.note_failure,
            **shared,
        )

    def note_failure(self, failure):
        self.failures.append(failure)

    @property
    def shadows_failed(self):
        return sum(each.shadow for each in self.failures)

    def serve(self, *onnx, features=("a", "b", "c"), percent=50, endpoint="delay"):
        """The first as the champion's next version, the second as canary."""
        self.generation += 1
        versions = []
        for place, data in enumerate(onnx):
            self.artifacts.upload(data)
            number = 10 * self.generation + place
            versions.append(a_served_version(number, onnx=data, features=features))
        self.table.define(an_endpoint(endpoint))
        rollout = (
            Rollout(endpoint, "m", self.generation, *versions, canary_percent=percent)
            if (len(versions) > 1)
            else Rollout(endpoint, "m", self.generation, versions[0])
        )
        self.table.want(rollout)
        serve_rollout(rollout, table=self.table, models=self.models)

    def take(self, *messages, deadline_s=60.0, cancelled=(), caller=EVERYBODY, traced=None):
        """What became of each, in order: ModelInferResponse or an error."""
        answers = {}
        now_s = time.monotonic()

        def heard(call, answer):
            tracing.end(call.span, answer)
            answers.setdefault(call.key, answer)

        calls = [
            HotCall(
                caller=caller,
                payload=message if isinstance(message, bytes) else message.SerializeToString(),
                arrived_s=now_s,
                deadline_s=now_s + deadline_s,
                reply=heard,
                key=key,
                span=call_span("/S/ModelInfer", [(TRACEPARENT, traced[key])]) if traced else None,
            )
            for key, message in enumerate(messages)
        ]
        for key in cancelled:
            calls[key].cancel()
        self.hot.take(calls)
        awaited = [key for key in range(len(calls)) if key not in cancelled]
        wait_until(lambda: all(key in answers for key in awaited))
        return [
            oip.ModelInferResponse.FromString(answers[key])
            if isinstance(answers[key], bytes)
            else answers[key]
            for key in awaited
        ]


@pytest.fixture
def door():
    made = Door()
    yield made
    made.hot.close()


def a_request(*first, id="", outputs=(), version="", **parameters):
    """A row for each first feature."""
    values = np.array([[x, 0.0, 0.0] for x in first], dtype="<f4")
    message = oip.ModelInferRequest(model_name="delay", id=id, model_version=version)
    message.inputs.add(name="features", datatype="FP32", shape=values.shape)
    message.raw_input_contents.append(values.tobytes())
    for output in outputs:
        message.outputs.add(name=output)
    for name, value in parameters.items():
        message.parameters[name].int64_param = value
    return message


def a_typed_request(first):
    """It has no form."""
    typed = oip.ModelInferRequest(model_name="delay")
    tensor = typed.inputs.add(name="features", datatype="FP32", shape=[1, 3])
    tensor.contents.fp32_contents.extend([first, 0.0, 0.0])
    return typed


def by_keys(*keys, id="", raw=True, outputs=(), **parameters):
    message = oip.ModelInferRequest(model_name="delay", id=id)
    texts = [key.encode() for key in keys]
    columns = (
        ("flight_id", "BYTES", "bytes_contents", texts),
        ("distance", "FP64", "fp64_contents", [100.0] * len(keys)),
        ("minutes", "INT64", "int64_contents", [5] * len(keys)),
    )
    for name, datatype, contents, values in columns:
        tensor = message.inputs.add(name=name, datatype=datatype, shape=[len(keys)])
        if raw:
            array = values if datatype == "BYTES" else np.array(values, DATATYPES[datatype].array)
            message.raw_input_contents.append(encode_raw(array))
        else:
            getattr(tensor.contents, contents).extend(values)
    for output in outputs:
        message.outputs.add(name=output)
    for name, value in parameters.items():
        message.parameters[name].int64_param = value
    return message


def two_inputs(rows, *, swapped=False, outputs=(), start=0):
    message = oip.ModelInferRequest(model_name="delay")
    ramp = np.arange(start, start + 16 * rows, dtype="<i4").reshape(rows, 16)
    tensors = [("INPUT0", ramp), ("INPUT1", np.ones((rows, 16), "<i4"))]
    for name, values in reversed(tensors) if swapped else tensors:
        message.inputs.add(name=name, datatype="INT32", shape=values.shape)
        message.raw_input_contents.append(values.tobytes())
    for output in outputs:
        message.outputs.add(name=output)
    return message


def a_hot_call(message, answers, *, key=0):
    now_s = time.monotonic()
    return HotCall(
        message.SerializeToString(),
        caller=EVERYBODY,
        arrived_s=now_s,
        deadline_s=now_s + 60.0,
        reply=lambda call, answer: answers.setdefault(call.key, answer),
        key=key,
    )


def spread_rows(count):
    message = oip.ModelInferRequest(model_name="delay")
    message.inputs.add(name="x", datatype="FP32", shape=[count, 1])
    message.raw_input_contents.append(np.ones((count, 1), "<f4").tobytes())
    return message


def with_text(message, name):
    message.parameters[name].string_param = "soon"
    return message


def in_shared_memory(message):
    message.outputs.add(name="score").parameters["shared_memory_region"].string_param = "r"
    return message


def scores(answer):
    return np.frombuffer(answer.raw_output_contents[0], "<f4").tolist()


def alone(door, message):
    """What the servicer answers: the law for the batch."""
    work_for(EVERYBODY)
    return door.api.answer(message, lambda: 60.0)


def test_calls_that_come_together_share_a_run_and_get_their_own_rows(door):
    door.serve(a_model(1.0))

    answers = door.take(*(a_request(*range(n, n + n % 3 + 1)) for n in range(8)))

    expected = [[1.0 + x for x in range(n, n + n % 3 + 1)] for n in range(8)]
    assert expected == [scores(answer) for answer in answers]
    assert 1 == len(door.log.predictions)
    assert (8, 1) == (
        door.statistics.read("delay", 10).success.count,
        door.statistics.read("delay", 10).executions,
    )


def test_ids_of_callers_without_one_cannot_be_foretold(door):
    door.serve(a_model(1.0))

    ids = [answer.id for answer in door.take(*(a_request(1.0) for _ in range(200)))]

    assert 200 == len(set(ids))
    # Not one half of an id is another's, as that of a process or the next number would be.
    assert 200 == len({id_[:16] for id_ in ids}) == len({id_[16:] for id_ in ids})


@pytest.mark.parametrize(("ids", "named"), [(["", ""], False), (["", "mine"], True)])
def test_log_knows_whether_a_caller_of_a_run_may_ask_again_by_its_id(door, ids, named):
    door.serve(a_model(1.0))

    door.take(*(a_request(1.0, id=id_) for id_ in ids))

    (prediction,) = door.log.predictions
    assert named == prediction.ids.named
    assert named == prediction.of_requests(1, 2).ids.named


class HeldBack:
    """Artifacts that come when the test lets them."""

    def __init__(self, artifacts):
        self.artifacts, self.let = artifacts, threading.Event()

    def fetch(self, digest):
        assert self.let.wait(10)

    def get(self, digest):
        return self.artifacts.get(digest)


def test_model_that_left_memory_is_loaded_while_others_answer(door):
    artifacts = HeldBack(door.artifacts)
    artifacts.let.set()
    door.models = models_of(artifacts)
    door.serve(a_model(1.0))
    door.serve(a_model(2.0), endpoint="busy")
    assert door.table.ready("delay")[1].champion.model.let_go()
    artifacts.let.clear()
    busy = a_request(5.0)
    busy.model_name = "busy"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(door.take, a_request(1.0), a_request(2.0))

        assert [7.0] == scores(door.take(busy)[0])
        assert not waiting.done()

        artifacts.let.set()
        assert [[2.0], [3.0]] == [scores(answer) for answer in waiting.result(10)]
    door.models.stop(0)


def test_what_keeps_a_model_from_loading_is_told_to_its_callers(door):
    door.serve(a_model(1.0))
    assert door.table.ready("delay")[1].champion.model.let_go()
    door.artifacts.refuses = Unavailable("SERVICE_UNAVAILABLE")

    answers = door.take(a_request(1.0), a_request(2.0))

    assert ["SERVICE_UNAVAILABLE"] * 2 == [answer.reason for answer in answers]
    door.models.stop(0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_answer_in_a_batch_is_the_answer_alone(served_door, data):
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=8))
    wanted = st.sampled_from([(), ("score",), ("features", "score"), ("prediction_id", "score")])
    messages = [
        a_request(*range(place, place + size), id=f"r-{place}", outputs=data.draw(wanted))
        for place, size in enumerate(sizes)
    ]

    assert [alone(served_door, each) for each in messages] == served_door.take(*messages)


@pytest.fixture(scope="module")
def served_door():
    made = Door()
    made.serve(a_model(1.0))
    yield made
    made.hot.close()


def test_models_with_several_inputs_are_batched_whatever_their_order(door):
    door.serve(an_adder(), features=())
    messages = [
        two_inputs(1),
        two_inputs(3, swapped=True, start=5),
        two_inputs(2, start=7),
        two_inputs(1, outputs=["OUTPUT1"]),
        two_inputs(1, outputs=["OUTPUT1", "prediction_id"]),
    ]

    answers = door.take(*messages)

    for message, answer in zip(messages, answers, strict=True):
        expected = alone(door, message)
        assert expected.outputs == answer.outputs
        assert expected.raw_output_contents[0] == answer.raw_output_contents[0]


def test_canary_that_names_its_inputs_in_another_order_is_given_each_by_its_name(door):
    door.serve(an_adder(), an_adder(("INPUT1", "INPUT0")), features=(), percent=100)
    message = two_inputs(2, start=5)

    (answer,) = door.take(message)

    assert ("11", alone(door, message).raw_output_contents[1]) == (
        answer.model_version,
        answer.raw_output_contents[1],
    )


def test_model_without_rows_runs_each_request_by_itself(door):
    door.serve(a_running_sum(), features=())

    def steps(count):
        message = oip.ModelInferRequest(model_name="delay")
        values = np.ones((count, 2), "<f4")
        message.inputs.add(name="x", datatype="FP32", shape=values.shape)
        message.raw_input_contents.append(values.tobytes())
        return message

    messages = [steps(2), steps(2), steps(3)]
    for answer, message in zip(door.take(*messages), messages, strict=True):
        assert alone(door, message).raw_output_contents == answer.raw_output_contents


def test_failure_of_one_is_not_the_others(door):
    door.serve(a_failing_model())

    answers = door.take(a_request(0.0), a_request(13.0), a_request(0.0))

    assert [0.5] == scores(answers[0]) == scores(answers[2])
    assert ("MODEL_ERROR", {}) == (answers[1].reason, answers[1].metadata)


def test_batch_that_a_device_has_too_little_memory_for_is_answered_one_by_one(door, monkeypatch):
    monkeypatch.setattr(hot_infer, "QUICK_S", 0.0)
    door.serve(a_model(1.0))
    model = door.table.ready("delay")[1].champion.model

    def run(inputs, outputs, ending=None, run=model.run):
        if len(inputs["features"]) > 2:
            raise Busy("DEVICE_MEMORY")
        return run(inputs, outputs, ending)

    monkeypatch.setattr(model, "run", run)
    one, many, two = door.take(a_request(0), a_request(1, 2, 3), a_request(4, 5))

    assert ([1.0], [5.0, 6.0]) == (scores(one), scores(two))
    assert "DEVICE_MEMORY" == many.reason


def test_infinite_feature_of_one_is_not_the_others(door):
    door.serve(a_model(1.0))

    good, bad = door.take(a_request(1.0), a_request(np.inf))

    assert ([2.0], "TENSOR_NONFINITE") == (scores(good), bad.reason)


@pytest.mark.parametrize("reason", ["DEADLINE_UNMET", "SERVICE_UNAVAILABLE"])
def test_what_keeps_a_batch_from_running_is_met_once(door, monkeypatch, reason):
    door.serve(a_model(1.0))
    tries = []

    def hindered(inputs, outputs, ending):
        tries.append(len(inputs["features"]))
        raise Unavailable(reason)

    monkeypatch.setattr(door.table.ready("delay")[1].champion.model, "run", hindered)

    answers = door.take(*map(a_request, range(5)))
    by_entity = take_behind_a_gate(door, *map(by_keys, "12345"))

    assert [reason] * 10 == [answer.reason for answer in (*answers, *by_entity)]
    assert [1, 1, 5, 5] == sorted(tries)


@pytest.mark.parametrize(
    ("message", "error", "reason"),
    [
        (b"\xff\xff", Invalid, "DECODE_ERROR"),
        (oip.ModelInferRequest(model_name="nothing"), NotFound, "MODEL_UNKNOWN"),
        (a_request(1.0, version="99"), NotFound, "MODEL_UNKNOWN"),
        (a_request(1.0, version="010"), NotFound, "MODEL_UNKNOWN"),
        (a_request(1.0, outputs=["other"]), Invalid, "TENSOR_NAME"),
        (a_request(1.0, priority=-1), Invalid, "BAD_REQUEST"),
        (a_request(1.0, timeout=-1), Invalid, "BAD_REQUEST"),
        (with_text(a_typed_request(1.0), "timeout"), Invalid, "BAD_REQUEST"),
        (with_text(by_keys("1"), "priority"), Invalid, "BAD_REQUEST"),
        (in_shared_memory(a_request(1.0)), Invalid, "UNSUPPORTED"),
        (a_request(*range(101)), Busy, "BATCH_TOO_LARGE"),
    ],
)
def test_mistake_is_told_with_its_reason(door, message, error, reason):
    door.serve(a_model(1.0))

    for _ in range(2):  # also when its form is known
        (refused,) = door.take(message)
        assert (error, reason) == (type(refused), refused.reason)


def test_id_that_is_no_text_is_refused(door):
    door.serve(a_model(1.0))
    data = a_request(1.0, id="abc").SerializeToString()
    door.take(data)

    (refused,) = door.take(data.replace(b"abc", b"a\xffc"))
    assert "DECODE_ERROR" == refused.reason
    assert {"message": "ModelInferRequest", "problem": "not UTF-8"} == refused.metadata


def test_bytes_that_are_no_message_are_told_which_is_needed(door):
    (refused,) = door.take(b"\xff\xff")

    assert {"message": "ModelInferRequest"} == refused.metadata
    assert "protobuf" in str(refused)


def test_request_without_an_id_gets_one_of_its_own(door):
    door.serve(a_model(1.0))

    ids = [answer.id for answer in door.take(*[a_request(1.0)] * 20)]

    assert 20 == len(set(ids) - {""})


def test_caller_without_permission_for_the_endpoint_is_denied(door):
    door.serve(a_model(1.0))
    permitted = Caller("one", frozenset({"predict:delay"}))
    other = Caller("two", frozenset({"predict:other"}))
    typed = oip.ModelInferRequest(model_name="delay")
    typed.inputs.add(name="features", datatype="FP32", shape=[1, 3])

    (answer,) = door.take(a_request(1.0), caller=permitted)
    denied = door.take(a_request(1.0), typed, caller=other)

    assert [2.0] == scores(answer)
    assert ["ACTION_FORBIDDEN"] * 2 == [error.reason for error in denied]


def test_retry_has_the_same_prediction_ids(door):
    door.serve(a_model(1.0))
    first, again = (door.take(a_request(1.0, 2.0, id="r-7"))[0] for _ in range(2))

    assert first == again
    assert alone(door, a_request(1.0, 2.0, id="r-7")) == first


@pytest.mark.parametrize("quick_s", [hot_infer.QUICK_S, 0.0], ids=["on the door", "in a lane"])
def test_late_and_cancelled_calls_do_not_run(door, monkeypatch, quick_s):
    monkeypatch.setattr(hot_infer, "QUICK_S", quick_s)
    door.serve(a_model(1.0))
    door.take(a_request(5.0))

    (late,) = door.take(a_request(6.0), deadline_s=0.0)
    (heard,) = door.take(a_request(7.0), a_request(8.0), cancelled=[0])
    (impatient,) = door.take(a_request(9.0, timeout=1))

    assert ("DEADLINE_UNMET", "DEADLINE_UNMET") == (late.reason, impatient.reason)
    assert [9.0] == scores(heard)
    logged = [x for prediction in door.log.predictions for x in prediction.scores.tolist()]
    assert [6.0, 9.0] == logged
    assert 2 == door.statistics.read("delay", 10).fail.count


def test_timeout_counts_for_requests_without_a_form(door):
    door.serve(a_model(1.0))
    typed = a_typed_request(1.0)
    (answer,) = door.take(typed)
    assert [2.0] == list(answer.outputs[0].contents.fp32_contents)

    typed.parameters["timeout"].int64_param = 1
    (refused,) = door.take(typed)
    assert "DEADLINE_UNMET" == refused.reason


def threads_that_answer(door):
    """From now on, by the names of their pools."""
    threads, append = set(), door.log.append

    def note(prediction, *, traces):
        threads.add(threading.current_thread().name.partition("_")[0])
        append(prediction)

    door.log.append = note
    return threads


def test_slow_model_runs_in_its_lane_and_the_door_goes_on(door, monkeypatch):
    monkeypatch.setattr(hot_infer, "QUICK_S", 0.0)
    door.serve(a_model(1.0))
    threads = threads_that_answer(door)
    answers = door.take(*(a_request(float(n)) for n in range(30)))

    assert [[1.0 + n] for n in range(30)] == [scores(answer) for answer in answers]
    assert {"runner"} == threads


def test_quick_model_that_may_wait_for_memory_runs_in_its_lane(door):
    """On the door's thread all others would wait with it."""
    door.models = models_of(door.artifacts, run_bytes_max=64 * 3 * 4 - 1)
    door.serve(a_model(1.0))
    threads = threads_that_answer(door)
    (answer,) = door.take(a_request(1.0))

    assert ([2.0], {"runner"}) == (scores(answer), threads)


def test_calls_over_http_run_together_with_those_over_grpc(door):
    door.serve(a_model(1.0))
    gathering = Together("inference", door.hot.take)
    rest = RestApi(door.api, Guard("inference", None, actions=ACTIONS), take=gathering.take)

    def ask(first):
        tensor = {"name": "features", "datatype": "FP32", "shape": [1, 3], "data": [first, 0, 0]}
        path, body = "/v2/models/delay/infer", json.dumps({"inputs": [tensor]}).encode()
        respond = rest.admit("POST", path, {})
        (score, _) = json.loads(respond(HttpRequest("POST", path, {}, body, lambda: True)).body)[
            "outputs"
        ]
        return score["data"]

    answers = {}
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask, first) for first in (1.0, 2.0)]
        gathering.take([a_hot_call(a_request(3.0), answers)])
        wait_until(lambda: gathering._waiting.qsize() == 3)
        gathering.start()
        assert [[2.0], [3.0]] == [each.result(10) for each in asked]
    wait_until(lambda: answers)
    gathering.stop(10.0)

    assert [4.0] == scores(oip.ModelInferResponse.FromString(answers[0]))
    assert [3] == [prediction.rows for prediction in door.log.predictions]


def test_request_with_no_number_does_not_fail_the_others(door):
    door.serve(an_echo(TensorProto.FLOAT), features=())
    messages = []
    for value in (1.0, np.nan, 2.0):
        message = oip.ModelInferRequest(model_name="delay")
        message.inputs.add(name="x", datatype="FP32", shape=[1, 2])
        message.raw_input_contents.append(np.full((1, 2), value, "<f4").tobytes())
        messages.append(message)

    one, none, two = door.take(*messages)

    assert ([1.0, 1.0], [2.0, 2.0]) == (scores(one), scores(two))
    assert ("TENSOR_NONFINITE", {"input": "x"}) == (none.reason, none.metadata)


def test_model_whose_sizes_are_open_runs_in_a_lane(door):
    door.serve(a_running_sum(), features=())
    message = oip.ModelInferRequest(model_name="delay")
    message.inputs.add(name="x", datatype="FP32", shape=[3, 2])
    message.raw_input_contents.append(np.ones((3, 2), "<f4").tobytes())

    (answer,) = door.take(message)

    assert [1, 1, 2, 2, 3, 3] == scores(answer)
    assert 1 == len(door.hot._lanes)


def test_requests_of_ever_new_sizes_are_not_all_remembered(door, monkeypatch):
    monkeypatch.setattr(plans, "PLANS_MAX", 10)
    door.serve(an_echo(TensorProto.FLOAT, ("rows", "wide")), features=())

    def of_size(wide):
        message = oip.ModelInferRequest(model_name="delay")
        message.inputs.add(name="x", datatype="FP32", shape=[1, wide])
        message.raw_input_contents.append(bytes(4 * wide))
        return message

    gc.collect()
    before = kinds()
    for wide in range(1, 50):
        (answer,) = door.take(of_size(wide))
        assert [1, wide] == list(answer.outputs[0].shape)

    wait_until(lambda: gc.collect() >= 0 and kinds() <= before + 10)


def kinds():
    return sum(isinstance(each, Kind) for each in gc.get_objects())


def test_full_lane_says_busy_until_one_who_waits_hangs_up(door, monkeypatch):
    monkeypatch.setattr(hot_infer, "QUICK_S", 0.0)
    monkeypatch.setattr(lanes, "QUEUE_S_MAX", 0.0)
    door.serve(a_model(1.0))
    begun, held, answers = threading.Event(), threading.Event(), {}
    append = door.log.append

    def hold(prediction, *, traces):
        begun.set()
        held.wait(10.0)
        append(prediction)

    door.log.append = hold
    calls = [a_hot_call(a_request(float(key)), answers, key=key) for key in range(4)]
    for call in calls[:3]:
        door.hot.take([call])
        assert begun.wait(10.0)  # the first one runs, the second one waits
    assert "QUEUE_FULL" == answers[2].reason

    calls[1].cancel()
    door.hot.take(calls[3:])
    held.set()
    wait_until(lambda: len(answers) == 3)

    assert {0, 3} == {key for key, answer in answers.items() if isinstance(answer, bytes)}


@pytest.mark.parametrize(
    ("asking", "batches"), [(a_request, 1), (lambda first: by_keys(str(first)), 2)]
)
def test_last_that_waits_is_told_when_runs_turn_out_to_be_slow(door, monkeypatch, asking, batches):
    monkeypatch.setattr(hot_infer, "QUICK_S", 0.0)
    door.serve(a_model(1.0))
    for first in range(lanes.LAST_BATCHES):
        door.take(asking(first))
    (runs, may_go), answers = held_runs(door, monkeypatch), {}
    calls = [a_hot_call(asking(key), answers, key=key) for key in range(batches + 2)]
    for begun, call in enumerate(calls[:batches], start=1):
        door.hot.take([call])
        wait_until(lambda begun=begun: len(runs) == begun)
    door.hot.take(calls[batches:])

    monkeypatch.setattr(lanes, "QUEUE_S_MAX", 0.0)
    may_go.set()
    wait_until(lambda: len(answers) == len(calls))

    assert "QUEUE_FULL" == answers.pop(batches + 1).reason
    assert {bytes} == {type(answer) for answer in answers.values()}
    assert 1 == door.statistics.read("delay", 10).fail.count


def test_run_that_nobody_waits_for_any_more_ends(door, monkeypatch):
    """Ends at all: its loop would take hours."""
    monkeypatch.setattr(onnx_runtime, "ROWS_TRIAL_S_MAX", 0.1)
    monkeypatch.setattr(onnx_runtime, "TIMING_S_MAX", 0.1)
    door.serve(an_endless_model(), features=())
    model, answers = door.table.ready("delay")[1].champion.model, {}
    message = oip.ModelInferRequest(model_name="delay")
    for spec in model.inputs:
        message.inputs.add(name=spec.name, datatype=spec.datatype, shape=[1, *spec.shape[1:]])
        message.raw_input_contents.append(bytes(8))
    call = a_hot_call(message, answers)
    door.hot.take([call])
    wait_until(lambda: model.at_work and call.free is not None)

    call.cancel()

    wait_until(lambda: answers and not model.at_work)
    assert "DEADLINE_UNMET" == answers[0].reason
    assert [] == door.log.predictions


def test_run_goes_on_while_one_of_its_callers_waits(door, monkeypatch):
    monkeypatch.setattr(hot_infer, "QUICK_S", 0.0)
    door.serve(a_model(1.0))
    model = door.table.ready("delay")[1].champion.model
    endings, may_go, answers, run = [], threading.Semaphore(0), {}, model.run

    def hold(inputs, outputs, ending):
        endings.append(ending)
        assert may_go.acquire(timeout=60.0)
        return run(inputs, outputs, ending)

    monkeypatch.setattr(model, "run", hold)
    calls = [a_hot_call(a_request(float(key)), answers, key=key) for key in range(3)]
    door.hot.take(calls[:1])
    wait_until(lambda: len(endings) == 1)
    door.hot.take(calls[1:])  # these wait for the first run, and share the next one
    may_go.release()
    wait_until(lambda: len(endings) == 2)

    calls[1].cancel()
    assert not endings[1].asked
    calls[2].cancel()
    assert endings[1].asked
    may_go.release()
    wait_until(lambda: len(answers) == 3)

    assert isinstance(answers[0], bytes)
    assert ["DEADLINE_UNMET"] * 2 == [answers[key].reason for key in (1, 2)]
    wait_until(lambda: all(call.free is None for call in calls))
    assert 1 == len(door.log.predictions)


def an_endless_request(door, monkeypatch, **parameters):
    """To a model whose loop would take hours; nothing is known of its time."""
    monkeypatch.setattr(onnx_runtime, "ROWS_TRIAL_S_MAX", 0.1)
    monkeypatch.setattr(onnx_runtime, "TIMING_S_MAX", 0.1)
    door.serve(an_endless_model(), features=())
    model = door.table.ready("delay")[1].champion.model
    message = oip.ModelInferRequest(model_name="delay")
    for spec in model.inputs:
        message.inputs.add(name=spec.name, datatype=spec.datatype, shape=[1, *spec.shape[1:]])
        message.raw_input_contents.append(bytes(8))
    for name, value in parameters.items():
        message.parameters[name].int64_param = value
    return model, message


def test_run_ends_when_the_time_of_its_request_is_over(door, monkeypatch):
    model, message = an_endless_request(door, monkeypatch, timeout=300_000)

    (late,) = door.take(message)

    assert "DEADLINE_UNMET" == late.reason
    wait_until(lambda: not model.at_work)
    assert ([], []) == (door.log.predictions, door.failures)


def test_run_of_a_request_without_a_form_ends_when_its_time_is_over(door, monkeypatch):
    model, message = an_endless_request(door, monkeypatch, timeout=300_000)
    for tensor, contents in zip(message.inputs, message.raw_input_contents, strict=True):
        typed = np.frombuffer(contents, DATATYPES[tensor.datatype].array)
        field = "int64_contents" if tensor.datatype == "INT64" else "fp32_contents"
        getattr(tensor.contents, field).extend(typed.tolist())
    del message.raw_input_contents[:]

    (late,) = door.take(message)

    assert "DEADLINE_UNMET" == late.reason
    wait_until(lambda: not model.at_work)
    assert ([], []) == (door.log.predictions, door.failures)


def held_runs(door, monkeypatch, *, endpoints=("delay",)):
    """What ends each run that begins; and what all of them wait for."""
    endings, may_go = [], threading.Event()
    for endpoint in endpoints:
        model = door.table.ready(endpoint)[1].champion.model

        def hold(inputs, outputs, ending, run=model.run):
            endings.append(ending)
            assert may_go.wait(60.0)
            return run(inputs, outputs, ending)

        monkeypatch.setattr(model, "run", hold)
    return endings, may_go


def named_after(message, endpoint):
    message.model_name = endpoint
    return message


@pytest.mark.parametrize("asking", [a_request, lambda first, **said: by_keys(str(first), **said)])
def test_model_answers_while_others_are_in_runs_that_do_not_end(door, monkeypatch, asking):
    """As one whose single operator takes long: its callers are told, its thread stays with it."""
    monkeypatch.setattr(hot_infer, "QUICK_S", 0.0)
    endless = [f"endless-{number}" for number in range(20)]
    for number, endpoint in enumerate([*endless, "delay"]):
        door.serve(a_model(float(number)), endpoint=endpoint)
    runs, may_go = held_runs(door, monkeypatch, endpoints=endless)
    asked = [named_after(asking(0, timeout=300_000), endpoint) for endpoint in endless]

    assert {"DEADLINE_UNMET"} == {answer.reason for answer in door.take(*asked)}
    assert len(endless) == len(runs)
    assert [len(endless)] == scores_of(door.take(asking(0))[0])
    may_go.set()


@pytest.mark.parametrize("asking", [a_request, lambda first, **said: by_keys(str(first), **said)])
def test_who_is_late_is_told_while_others_are_waited_for(door, monkeypatch, asking):
    monkeypatch.setattr(hot_infer, "QUICK_S", 0.0)
    door.serve(a_model(1.0))
    (_, may_go), answers = held_runs(door, monkeypatch), {}
    messages = [asking(0), asking(1, timeout=300_000), asking(2)]
    calls = [a_hot_call(each, answers, key=key) for key, each in enumerate(messages)]
    door.hot.take(calls)
    wait_until(lambda: 1 in answers)

    assert {1} == set(answers)
    assert "DEADLINE_UNMET" == answers[1].reason
    may_go.set()
    wait_until(lambda: len(answers) == 3)
    assert [bytes, bytes] == [type(answers[key]) for key in (0, 2)]


def test_who_is_late_in_the_queue_is_told_there(door, monkeypatch):
    monkeypatch.setattr(hot_infer, "QUICK_S", 0.0)
    door.serve(a_model(1.0))
    (runs, may_go), answers = held_runs(door, monkeypatch), {}
    door.hot.take([a_hot_call(a_request(0.0), answers, key=0)])
    wait_until(lambda: runs)
    door.hot.take([a_hot_call(a_request(1.0, timeout=200_000), answers, key=1)])

    wait_until(lambda: 1 in answers)
    assert "DEADLINE_UNMET" == answers[1].reason
    may_go.set()
    wait_until(lambda: 0 in answers)
    assert 1 == len(runs)


def test_calls_that_were_answered_are_not_kept_for_their_time():
    late = LateCalls()
    calls = [a_hot_call(a_request(0.0), {}, key=key) for key in range(100)]
    for call in calls:
        late.watch(call, call.deadline_s - 1.0, call.answer)
        call.answer(b"")

    assert len(late._due) <= ANSWERED_MAX
    late.close()


def test_request_without_a_form_frees_its_place_when_its_caller_hangs_up(door):
    door.serve(a_model(1.0))
    begun, held, answers = threading.Semaphore(0), threading.Event(), {}
    append = door.log.append

    def hold(prediction, *, traces):
        begun.release()
        held.wait(10.0)
        append(prediction)

    door.log.append = hold
    calls = [a_hot_call(a_typed_request(float(key)), answers, key=key) for key in range(6)]
    door.hot.take(calls[:5])
    assert all(begun.acquire(timeout=10.0) for _ in range(SHARE))

    calls[4].cancel()
    door.hot.take(calls[5:])
    held.set()
    wait_until(lambda: len(answers) == 5)

    assert {0, 1, 2, 3, 5} == set(answers)
    assert {1.0, 2.0, 3.0, 4.0, 6.0} == {each.scores[0] for each in door.log.predictions}


def test_slow_endpoint_keeps_no_other_waiting_for_requests_without_a_form(door):
    door.serve(a_model(1.0))
    door.serve(a_model(5.0), endpoint="price")
    held, answers = threading.Event(), {}
    append = door.log.append

    def hold(prediction, *, traces):
        if prediction.endpoint == "delay":
            held.wait(10.0)
        append(prediction)

    door.log.append = hold
    slow = [a_hot_call(a_typed_request(1.0), answers, key=key) for key in range(2 * WORKERS)]
    door.hot.take(slow)
    other = a_typed_request(1.0)
    other.model_name = "price"
    (answer,) = door.take(other)
    unknown = a_typed_request(1.0)
    unknown.model_name = "nothing"
    (refused,) = door.take(unknown)

    assert [6.0] == list(answer.outputs[0].contents.fp32_contents)
    assert ("MODEL_UNKNOWN", {}) == (refused.reason, answers)
    held.set()
    wait_until(lambda: len(answers) == len(slow))


@pytest.mark.parametrize("id_", ["a\0b", "line\nbreak", "\u202egpj", "\u2066x", "\x7f"])
def test_request_id_that_cannot_be_seen_is_refused_at_each_way_in(door, id_):
    door.serve(a_model(1.0))
    typed = a_typed_request(0.0)
    typed.id = id_
    ways = a_request(0.0, id=id_), by_keys("UA-1", id=id_), by_keys("UA-1", id=id_, raw=False)

    for _ in range(2):  # of a form that is new, and of one that is known
        refused = door.take(*ways, typed)
        assert ["BAD_ID"] * 4 == [error.reason for error in refused]
        door.take(a_request(0.0, id="ü / 42"), by_keys("UA-1", id="ü / 42"))
    assert {"id"} == {error.metadata["field"] for error in refused}


def test_canary_answers_its_share_and_is_the_others_shadow(door):
    door.serve(a_model(1.0), a_model(2.0), percent=50)
    messages = [a_request(0.0, id=f"r-{n}") for n in range(64)]

    answers = door.take(*messages)

    assert [alone(door, each) for each in messages] == answers
    assert {"10", "11"} == {answer.model_version for answer in answers}
    for prediction in door.log.predictions:
        other = {10: 11, 11: 10}[prediction.served.version]
        assert other == prediction.shadow.version


def named(message, key):
    message.parameters["entity_key"].string_param = key
    return message


def typed_inputs(message):
    """The same without raw contents, which has no form."""
    typed = oip.ModelInferRequest(
        model_name=message.model_name, id=message.id, parameters=message.parameters
    )
    for tensor, raw in zip(message.inputs, message.raw_input_contents, strict=True):
        given = typed.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        field, array = DATATYPES[tensor.datatype].field, DATATYPES[tensor.datatype].array
        getattr(given.contents, field).extend(np.frombuffer(raw, array).tolist())
    return typed


@pytest.mark.parametrize("raw", [True, False], ids=["by its form", "alone"])
@pytest.mark.parametrize(
    ("models", "features", "ask"),
    [
        ((a_model(1.0), a_model(2.0)), ("a", "b", "c"), lambda: a_request(0.0, 0.0)),
        ((an_adder(), an_adder()), (), lambda: two_inputs(2)),
    ],
    ids=["features", "its own inputs"],
)
def test_entity_that_a_parameter_names_chooses_the_arm_and_is_logged(
    door, models, features, ask, raw
):
    door.serve(*models, features=features, percent=50)
    keys = [f"UA-{number}" for number in range(20)] * 2
    messages = [named(ask(), key) for key in keys]

    answers = door.take(*(messages if raw else map(typed_inputs, messages)))

    arm_of = door.table.ready("delay")[1].rollout.arm_of
    expected = ["11" if arm_of(key) is Arm.CANARY else "10" for key in keys]
    assert expected == [answer.model_version for answer in answers]
    assert {"10", "11"} == set(expected)
    logged = [key for each in door.log.predictions for key in each.entity_keys]
    assert sorted([*keys, *keys]) == sorted(logged)
    assert len({answer.id for answer in answers}) == len(keys)


def test_request_that_names_an_entity_is_cut_and_runs_with_those_that_name_none(door, monkeypatch):
    door.serve(a_model(1.0))
    door.take(named(a_request(1.0), "UA-1"))
    monkeypatch.setattr(hot_infer, "_message", None)

    answers = door.take(a_request(2.0), named(a_request(3.0), "UA-2"), a_request(4.0, id="r"))

    assert [[3.0], [4.0], [5.0]] == [scores(answer) for answer in answers]
    assert ["", "UA-2", ""] == list(door.log.predictions[-1].entity_keys)


def test_many_entities_leave_the_known_forms_as_they_are(door, monkeypatch):
    door.serve(a_model(1.0))
    parsed = []
    parse = hot_infer._message
    monkeypatch.setattr(hot_infer, "_message", lambda data: parsed.append(data) or parse(data))

    for number in range(50):
        door.take(named(a_request(1.0, id=f"r-{number}"), "k" * number))

    assert 1 == len(parsed)


@pytest.mark.parametrize("key", ["k" * 129, "a\0b", "line\nbreak", "\u202egpj", "\x7f"], ids=ascii)
def test_entity_that_cannot_be_one_is_refused_at_each_way_in(door, key):
    door.serve(a_model(1.0))
    ways = a_request(0.0), a_typed_request(0.0), by_keys("1"), by_keys("1", raw=False)

    for _ in range(2):  # of a form that is new, and of one that is known
        refused = door.take(*(named(way, key) for way in ways[:2]))
        assert ["BAD_ID"] * 2 == [error.reason for error in refused]
        door.take(*(named(way, "UA-1") for way in ways))
    refused = door.take(*(named(way, key) for way in ways))
    assert ["BAD_ID"] * 4 == [error.reason for error in refused]


def test_entity_that_is_no_text_is_told(door):
    door.serve(a_model(1.0))
    data = named(a_request(1.0), "UA-1").SerializeToString()
    door.take(data)

    refused = door.take(data.replace(b"UA-1", b"UA\xff1"), a_request(1.0, entity_key=1))
    assert ["DECODE_ERROR", "BAD_REQUEST"] == [error.reason for error in refused]


def test_rows_that_name_their_entity_keep_it_whatever_the_parameter_says(door):
    door.serve(a_model(1.0))
    one = by_keys("1", "2")
    of_some = a_request(0.0, 0.0)
    of_some.inputs.add(name="entity_key", datatype="BYTES", shape=[2])
    of_some.raw_input_contents.append(encode_raw([b"UA-1", b""]))

    for message in (one, of_some):
        for _ in range(2):
            door.take(named(message, "UA-9"))

    logged = [tuple(each.entity_keys) for each in door.log.predictions]
    assert [("1", "2")] * 2 + [("UA-1", "UA-9")] * 2 == logged


def test_entity_over_http_chooses_the_arm_and_is_logged(door):
    door.serve(a_model(1.0), a_model(2.0), percent=50)
    rest = RestApi(door.api, Guard("inference", None, actions=ACTIONS), take=door.hot.take)
    tensor = {"name": "features", "datatype": "FP32", "shape": [1, 3], "data": [0, 0, 0]}
    path = "/v2/models/delay/infer"

    def ask(key):
        asked = {"inputs": [tensor], "parameters": {"entity_key": key}}
        request = HttpRequest("POST", path, {}, json.dumps(asked).encode(), lambda: True)
        return json.loads(rest.admit("POST", path, {})(request).body)["model_version"]

    keys = [f"UA-{number}" for number in range(20)]
    arm_of = door.table.ready("delay")[1].rollout.arm_of
    expected = ["11" if arm_of(key) is Arm.CANARY else "10" for key in keys]

    assert expected == [ask(key) for key in keys]
    assert keys == [each.entity_keys[0] for each in door.log.predictions]
    with pytest.raises(Invalid) as refused:
        ask(7)
    assert "BAD_REQUEST" == refused.value.reason


def test_named_version_answers_whatever_the_share_says(door):
    door.serve(a_model(1.0), a_model(2.0), percent=100)

    answers = door.take(*(a_request(0.0, id=f"{n}", version="10") for n in range(8)))

    assert {"10"} == {answer.model_version for answer in answers}


def test_no_batch_mixes_versions_while_they_change(door):
    door.serve(a_model(10.0))
    done, wrong = threading.Event(), []

    def call():
        while not done.is_set():
            for answer in door.take(*[a_request(0.0)] * 5):
                if [float(answer.model_version)] != scores(answer):
                    wrong.append(answer)

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    for generation in range(2, 12):
        door.serve(a_model(generation * 10.0))
    done.set()
    for caller in callers:
        caller.join(20.0)

    assert [] == wrong
    for prediction in door.log.predictions:
        assert {float(prediction.served.version)} == set(prediction.scores.tolist())


def test_plan_of_a_table_that_is_replaced_meanwhile_is_not_kept(door, monkeypatch):
    door.serve(a_model(1.0))
    ready = door.table.ready

    def stopped_behind(endpoint):
        """As when another thread sees the stop while this one makes its plan."""
        found = ready(endpoint)
        monkeypatch.setattr(door.table, "ready", ready)
        rollout = found[1].rollout
        door.table.want(replace(rollout, generation=rollout.generation + 1, stopped=True))
        door.hot.read([])
        return found

    monkeypatch.setattr(door.table, "ready", stopped_behind)
    door.take(a_request(0.0))

    (refused,) = door.take(a_request(0.0))
    assert "ENDPOINT_STOPPED" == refused.reason


@pytest.mark.parametrize("quick_s", [hot_infer.QUICK_S, 0.0], ids=["on the door", "in a lane"])
def test_replaced_version_is_forgotten_with_the_next_call(door, monkeypatch, quick_s):
    import gc
    import weakref

    monkeypatch.setattr(hot_infer, "QUICK_S", quick_s)
    door.serve(a_model(1.0))
    door.take(a_request(0.0))
    replaced = weakref.ref(door.table.ready("delay")[1].champion.model)
    door.serve(a_model(2.0))
    door.log.predictions.clear()

    door.take(a_request(0.0))

    def forgotten():
        gc.collect()
        return replaced() is None

    wait_until(forgotten)


def scores_of(answer):
    place = [output.name for output in answer.outputs].index("score")
    if answer.raw_output_contents:
        return np.frombuffer(answer.raw_output_contents[place], "<f4").tolist()
    return list(answer.outputs[place].contents.fp32_contents)


def take_behind_a_gate(door, *messages):
    """While the features of other requests are read, as many as are read at once."""
    door.features.gate.clear()
    others = [threading.Thread(target=door.take, args=[by_keys("0")]) for _ in range(2)]
    for reads, thread in enumerate(others, start=1):
        thread.start()
        wait_until(lambda reads=reads: len(door.features.reads) == reads)
    answers = []
    asking = threading.Thread(target=lambda: answers.extend(door.take(*messages)))
    asking.start()
    rows = sum(message.inputs[0].shape[0] for message in messages)
    (lane,) = door.hot.entities._lanes.values()
    wait_until(lambda: lane._rows == rows)
    door.features.gate.set()
    for thread in (*others, asking):
        thread.join()
    return answers


def test_requests_by_entity_that_wait_have_their_features_read_in_one_call(door):
    door.serve(a_model(1.0))
    messages = [by_keys(str(n), id=f"r-{n}") for n in range(6)]
    messages += [by_keys("6", "7"), by_keys("8", raw=False), by_keys("9", outputs=["features"])]
    answers = take_behind_a_gate(door, *messages)

    assert [[1.0 + n] for n in range(6)] == [scores_of(each) for each in answers[:6]]
    assert [[7.0, 8.0], [9.0]] == [scores_of(each) for each in answers[6:8]]
    assert [f"r-{n}" for n in range(6)] == [each.id for each in answers[:6]]
    assert [9.0, 0.0, 0.0] == np.frombuffer(answers[8].raw_output_contents[0], "<f4").tolist()
    assert 3 == len(door.features.reads)
    assert 12 == sum(each.rows for each in door.log.predictions)


def test_answer_by_entity_in_a_batch_is_the_answer_alone(door):
    door.serve(a_model(1.0))
    messages = [by_keys("1", id="a"), by_keys("2", "3", id="b"), by_keys("4", id="c", raw=False)]
    together = take_behind_a_gate(door, *messages)

    assert [door.api.answer(each, lambda: 5.0) for each in messages] == together


def with_contents(message, *contents):
    """The same but for what its inputs hold, all of it as long as before."""
    changed = oip.ModelInferRequest()
    changed.CopyFrom(message)
    for place, content in enumerate(contents):
        assert len(content) == len(changed.raw_input_contents[place])
        changed.raw_input_contents[place] = content
    return changed


def test_request_by_entity_of_a_known_form_is_cut_and_not_parsed(door, monkeypatch):
    door.serve(a_model(1.0))
    (first,) = door.take(by_keys("11", id="a"))
    monkeypatch.setattr(hot_infer, "_message", None)

    second = by_keys("12", id="b")
    assert [[12.0], [13.0]] == [scores_of(first), *map(scores_of, door.take(second))]


def test_request_by_entity_of_a_known_form_has_an_id_of_its_own(door):
    door.serve(a_model(1.0))
    answers = [door.take(by_keys(key))[0] for key in ("11", "12", "12")]

    assert 3 == len({answer.id for answer in answers} - {""})
    assert 3 == len({row for each in door.log.predictions for row in each.prediction_ids})


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        ([b"\2\0\0\0\xff\xfe"], "TENSOR_CONTENT"),
        ([b"\2\0\0\0\n\n"], "BAD_ID"),
        ([b"\3\0\0\0ab"], "TENSOR_CONTENT"),
        ([b"\1\0\0\0ab"], "TENSOR_SIZE"),
        ([b"\0\0\0\0\0\0"], "TENSOR_SIZE"),
        ([b"\2\0\0\0ab", np.array([np.inf], "<f8").tobytes()], "TENSOR_NONFINITE"),
    ],
)
def test_mistake_in_a_known_form_is_told_as_one_alone(door, contents, reason):
    door.serve(a_model(1.0))
    message = by_keys("11", id="a")
    door.take(message)

    (told,) = door.take(with_contents(message, *contents))

    assert reason == told.reason
    with pytest.raises(Invalid) as raised:
        alone(door, with_contents(message, *contents))
    assert (told.reason, told.metadata) == (raised.value.reason, raised.value.metadata)


def test_empty_key_in_a_known_form_is_told(door):
    door.serve(a_model(1.0))
    door.take(by_keys(""))

    assert ["KEY_MISSING"] == [each.reason for each in door.take(by_keys(""))]


def test_form_by_entity_is_checked_again_when_another_version_is_served(door):
    door.serve(a_model(1.0))
    before = [scores_of(door.take(by_keys(key))[0]) for key in "12"]
    door.serve(a_model(5.0))

    assert ([[2.0], [3.0]], [8.0]) == (before, scores_of(door.take(by_keys("3"))[0]))


def test_requests_read_by_two_definitions_of_their_columns_share_no_batch(door):
    door.serve(a_model(1.0))
    before, _ = door.table.ready("delay")
    door.features.gate.clear()
    asking = [threading.Thread(target=door.take, args=[by_keys("0")]) for _ in range(2)]
    for reads, thread in enumerate(asking, start=1):
        thread.start()
        wait_until(lambda reads=reads: len(door.features.reads) == reads)
    turned = before.model_copy(update={"columns": dict(reversed(before.columns.items()))})
    for rows, (definition, key) in enumerate([(before, "1"), (turned, "2")], start=1):
        door.table.define(definition)
        asking.append(threading.Thread(target=door.take, args=[by_keys(key)]))
        asking[-1].start()
        (lane,) = door.hot.entities._lanes.values()
        wait_until(lambda rows=rows, lane=lane: lane._rows == rows)
    door.features.gate.set()
    for thread in asking:
        thread.join()

    assert [["0"], ["0"], ["1"], ["2"]] == door.features.reads


def test_requests_whose_features_are_stale_are_not_read_again_one_by_one(door):
    door.serve(a_model(1.0))
    answers = take_behind_a_gate(door, *map(by_keys, ("1", "stale", "2")))

    assert ["FEATURES_STALE"] * 3 == [error.reason for error in answers]
    assert 3 == len(door.features.reads)


def test_unknown_entity_of_one_is_not_the_others(door):
    door.serve(a_model(1.0))
    answers = take_behind_a_gate(door, *map(by_keys, ("1", "lost", "2", "lost", "3")))

    assert [True] * 2 == [isinstance(answers[place], NotFound) for place in (1, 3)]
    assert [[2.0], [3.0], [4.0]] == [scores_of(answers[place]) for place in (0, 2, 4)]


def test_run_by_entity_that_nobody_waits_for_any_more_ends(door, monkeypatch):
    door.serve(a_model(1.0))
    (endings, may_go), answers = held_runs(door, monkeypatch), {}
    call = a_hot_call(by_keys("1"), answers)
    door.hot.take([call])
    wait_until(lambda: endings)

    call.cancel()
    may_go.set()
    wait_until(lambda: answers)

    assert (True, "DEADLINE_UNMET") == (endings[0].asked, answers[0].reason)
    assert [] == door.log.predictions


def test_late_request_by_entity_has_no_features_read(door):
    door.serve(a_model(1.0))

    (late,) = door.take(by_keys("1"), deadline_s=-1.0)
    assert "DEADLINE_UNMET" == late.reason
    assert [] == door.features.reads


def test_request_by_entity_whose_time_passes_while_features_are_read_is_not_run(door):
    door.serve(a_model(1.0))
    door.features.gate.clear()
    late = []
    # Long enough for a slow machine to begin the read before it is over.
    asked = by_keys("1", timeout=5_000_000)
    asking = threading.Thread(target=lambda: late.extend(door.take(asked)))
    asking.start()
    wait_until(lambda: door.features.reads)
    wait_until(lambda: late)
    door.features.gate.set()
    asking.join()
    door.take(by_keys("2"))

    assert ["DEADLINE_UNMET"] == [each.reason for each in late]
    assert [("2",)] == [tuple(each.entity_keys) for each in door.log.predictions]


def test_request_by_entity_whose_caller_hangs_up_while_features_are_read_is_not_run(door):
    door.serve(a_model(1.0))
    door.features.gate.clear()
    refused = {}
    call = a_hot_call(by_keys("1"), refused)
    door.hot.take([call])
    wait_until(lambda: door.features.reads)
    call.cancel()
    door.features.gate.set()
    wait_until(lambda: refused)

    assert ["DEADLINE_UNMET"] == [each.reason for each in refused.values()]
    assert [] == door.log.predictions


def test_request_by_entity_that_is_late_after_the_read_is_not_run_with_the_others(
    door, monkeypatch
):
    door.serve(a_model(1.0), a_model(2.0), percent=0)
    passed_s, read = [0.0], door.features.read

    def read_for_long(features, batch, **options):
        passed_s[0] = 55.0 * ("3" in batch.entity_keys)
        return read(features, batch, **options)

    monkeypatch.setattr(door.features, "read", read_for_long)
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed_s[0])
    monkeypatch.setattr(entity_runs, "time", clock)
    messages = [by_keys("1", "2", id="a"), by_keys("3", timeout=50_000_000), by_keys("4", id="c")]

    answers = take_behind_a_gate(door, *messages)

    assert [[2.0, 3.0], [5.0]] == [scores_of(answers[place]) for place in (0, 2)]
    assert "DEADLINE_UNMET" == answers[1].reason
    (logged,) = (each for each in door.log.predictions if each.rows > 1)
    assert (["1", "2", "4"], [2.0, 3.0, 5.0]) == (
        list(logged.entity_keys),
        logged.scores.tolist(),
    )
    assert [3.0, 4.0, 6.0] == logged.shadow.outputs["score"].values.tolist()
    assert [door.api.answer(messages[place], lambda: 5.0) for place in (0, 2)] == [
        answers[place] for place in (0, 2)
    ]


def test_canary_answers_entities_of_its_share_in_a_batch_of_its_own(door):
    door.serve(a_model(100.0), a_model(200.0))
    rollout = door.table.ready("delay")[1].rollout
    keys = [str(n) for n in range(20)]
    answers = take_behind_a_gate(door, *map(by_keys, keys))

    arms = [100.0 if rollout.arm_of(key) is Arm.CHAMPION else 200.0 for key in keys]
    assert [[arm + n] for n, arm in enumerate(arms)] == [scores_of(each) for each in answers]


def spans_of(finished, name):
    return [span for span in finished() if span.name == name]


def test_requests_that_ran_together_have_each_its_span_and_the_log_knows_their_traces(door):
    door.serve(a_model(1.0))
    with recorded_spans() as finished:
        door.take(
            a_request(1.0, id="a"),
            a_request(2.0, id="b"),
            a_request(3.0, id="c"),
            traced=[a_traceparent(1), a_traceparent(2, sampled=False), a_traceparent(3)],
        )
        wait_until(lambda: len(finished()) == 4)
        asked, runs = spans_of(finished, "S/ModelInfer"), spans_of(finished, "run model")

    said = [span.attributes["headrace.request.id"] for span in asked]
    assert {"a", "c"} == set(said)
    assert ["delay"] * 2 == [span.attributes["headrace.endpoint"] for span in asked]
    assert [10, 10] == [span.attributes["headrace.model.version"] for span in asked]
    assert {span.context.span_id for span in asked} == {span.parent.span_id for span in runs}
    assert {1, 3} == {int(trace.split("-")[1], 16) for trace in door.log.traces}


def test_request_without_a_form_is_logged_in_its_trace(door):
    door.serve(a_model(1.0))
    with recorded_spans() as finished:
        door.take(a_typed_request(1.0), traced=[a_traceparent(1)])
        wait_until(lambda: len(finished()) == 2)
        (span,) = spans_of(finished, "S/ModelInfer")

    (trace,) = door.log.traces
    assert f"{span.context.span_id:016x}" == trace.split("-")[2]
    assert "delay" == span.attributes["headrace.endpoint"]


def test_refused_request_says_why_in_its_span(door):
    with recorded_spans() as finished:
        door.take(a_request(1.0), traced=[a_traceparent(1)])
        (span,) = finished()

    assert "MODEL_UNKNOWN" == span.attributes["error.type"]
    assert "NOT_FOUND" == span.attributes["rpc.response.status_code"]


def test_requests_by_entity_that_ran_together_are_logged_in_their_traces(door):
    door.serve(a_model(1.0))
    with recorded_spans() as finished:
        door.take(by_keys("1", id="a"), traced=[a_traceparent(1)])
        wait_until(lambda: len(finished()) == 2)
        (span,) = spans_of(finished, "S/ModelInfer")

    (trace,) = door.log.traces
    assert f"{span.context.span_id:016x}" == trace.split("-")[2]
    assert "a" == span.attributes["headrace.request.id"]


@pytest.mark.parametrize("numbers", [10, 100_000])
def test_requests_run_together_as_far_as_the_memory_of_a_run_goes(door, monkeypatch, numbers):
    """On the door's thread, and in a lane."""
    door.models = models_of(door.artifacts, run_bytes_max=3 * 3 * 4 * numbers)
    monkeypatch.setattr(onnx_runtime, "NOISE_BYTES", 1 << 30)
    door.serve(a_spreading_model(numbers), features=())

    *answers, refused = door.take(*(spread_rows(1) for _ in range(7)), spread_rows(4))

    assert 7 == sum(4 * numbers == len(each.raw_output_contents[0]) for each in answers)
    assert ("4", "3") == (refused.metadata["rows"], refused.metadata["rows_max"])
    assert "BATCH_TOO_LARGE" == refused.reason
    assert 3 == max(len(prediction.ids) for prediction in door.log.predictions)


def test_requests_by_entity_keys_run_together_as_far_as_memory_goes(door, monkeypatch):
    door.models = models_of(door.artifacts, run_bytes_max=3 * 3 * 4)
    monkeypatch.setattr(onnx_runtime, "NOISE_BYTES", 1 << 30)
    door.serve(a_model(1.0))
    door.features.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(door.take, *(by_keys(str(n)) for n in range(9)), by_keys(*"1234"))
        wait_until(lambda: door.features.reads)
        door.features.gate.set()
        *answers, refused = taken.result(30)

    assert [1.0 + n for n in range(9)] == [scores(answer)[0] for answer in answers]
    assert "BATCH_TOO_LARGE" == refused.reason
    assert 3 == max(len(prediction.ids) for prediction in door.log.predictions)


def test_shadow_that_takes_more_memory_than_the_answer_sets_the_bound(door, monkeypatch):
    door.models = models_of(door.artifacts, run_bytes_max=3 * 3 * 4)
    monkeypatch.setattr(onnx_runtime, "NOISE_BYTES", 1 << 30)
    door.serve(a_model(1.0), a_model(2.0), percent=0)

    assert 5 == len(door.take(*(a_request(n) for n in range(5))))

    assert 0 == door.shadows_failed
    assert 3 == max(len(prediction.ids) for prediction in door.log.predictions)

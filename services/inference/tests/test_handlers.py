# SPDX-License-Identifier: Apache-2.0
"""Answering a request and serving a rollout, with toy models on the real runtime."""

import math
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from onnx import TensorProto, helper

from headrace.errors import Conflict, HeadraceError, NotFound, Unavailable
from headrace.inference.v1 import inference_events_pb2 as events
from headrace.prediction_log import logged_predictions
from headrace_inference.adapters.answered_counts import AnsweredCounts
from headrace_inference.adapters.kafka_prediction_log import KafkaPredictionLog
from headrace_inference.domain.rollout import Arm, Rollout
from headrace_inference.domain.serving import ServingTable
from headrace_inference.handlers import FEATURES_S_MAX, infer, predict, serve_rollout
from headrace_inference.testing import (
    FEATURES,
    MemoryArtifactStore,
    MemoryFeatureReader,
    a_failing_model,
    a_keys_request,
    a_model,
    a_request,
    a_rollout,
    a_served_version,
    a_tensor,
    an_endpoint,
    models_of,
    onnx_bytes,
)
from headrace_kit.testing import FixedClock, MemoryPublisher, wait_until


class Room:
    """The service without its doors: real table, routing and runtime, memory around them."""

    def __init__(self, folder):
        self.table = ServingTable()
        self.artifacts = MemoryArtifactStore()
        self.features = MemoryFeatureReader()
        self.publisher = MemoryPublisher()
        counts = AnsweredCounts(folder)
        self.log = KafkaPredictionLog(self.publisher, partitions=lambda _: 4, counts=counts)
        self.failures = []
        self.models = models_of(self.artifacts)
        self.generation = 0
        self.table.define(an_endpoint())

    def served(self, version, *, onnx=None, features=FEATURES):
        data = onnx or a_model(float(version), width=len(features))
        self.artifacts.upload(data)
        return a_served_version(version, onnx=data, features=features)

    def serve(self, champion, canary=None, percent=50):
        self.generation += 1
        rollout = Rollout("delay", "delay-model", self.generation, champion, canary, percent)
        self.table.want(rollout)
        serve_rollout(rollout, table=self.table, models=self.models)

    def infer(self, request, *, time_left_s=lambda: 5.0):
        bound = partial(
            predict,
            table=self.table,
            features=self.features,
            clock=FixedClock(1_000_000),
            rows_max=100,
            explaining=nullcontext,
            on_failed=self.note_failure,
        )
        return infer(request, predict=bound, log=self.log, time_left_s=time_left_s)

    def note_failure(self, failure):
        self.failures.append(failure)

    @property
    def shadows_failed(self):
        return sum(each.shadow for each in self.failures)

    def logged(self):
        self.log.flush()
        records = [logged_predictions(message.value) for message in self.publisher.published]
        return [row for rows in records for row in rows]


@pytest.fixture
def room(tmp_path):
    return Room(tmp_path)


@pytest.fixture
def serving_room(room):
    """Version 1 is champion."""
    room.serve(room.served(1))
    return room


def features_input(*first):
    return a_tensor("features", "FP32", [[x, 0.0, 0.0] for x in first])


def test_each_row_gets_its_own_score(serving_room):
    prediction = serving_room.infer(a_request(features_input(0.25, math.nan, 0.75)))

    assert [1.25, 1.0, 1.75] == prediction.scores.tolist()


def test_answer_names_the_version_its_arm_and_generation(serving_room):
    prediction = serving_room.infer(a_request())

    expected = (1, Arm.CHAMPION, 1, "delay-model")
    served = prediction.served.version
    assert expected == (served, prediction.arm, prediction.rollout_generation, prediction.model)


def test_entity_keys_are_answered_with_the_features_that_were_read(serving_room):
    serving_room.features.value_by_feature = {"weather:wind": 0.5, "origin:mean": math.nan}

    prediction = serving_room.infer(a_keys_request("UA-1", "UA-2"))

    assert [1.5, 1.5] == prediction.scores.tolist()
    np.testing.assert_array_equal([[0.5, math.nan, 0.0]] * 2, prediction.features)


def test_log_holds_what_was_answered(serving_room):
    serving_room.features.value_by_feature = {"weather:wind": 0.5}

    prediction = serving_room.infer(a_keys_request("UA-1", "UA-2", id="r-7"))

    logged = serving_room.logged()
    assert set(prediction.prediction_ids) == {event.prediction_id for event in logged}
    assert {"UA-1", "UA-2"} == {event.entity_key for event in logged}
    assert {"inference.predictions.delay.v1"} == {m.topic for m in serving_room.publisher.published}
    event = logged[0]
    assert (1.5, 1, (0.5, 0.0, 0.0)) == (event.score, event.version, event.features)
    assert (events.ARM_CHAMPION, events.DOOR_ENTITY_KEYS) == (event.arm, event.door)
    assert (1_000_000, 1_000_000) == (event.as_of_us, event.served_at_us)
    assert a_served_version(1).digest == event.digest
    assert 0 == event.shadow_version


def test_log_holds_when_the_newest_observation_of_each_feature_happened(serving_room):
    serving_room.features.event_us_by_feature = {"weather:wind": 5, "origin:mean": 7}

    serving_room.infer(a_keys_request("UA-1", "UA-2"))

    assert [(5, 7, -1)] * 2 == [row.event_times_us for row in serving_room.logged()]


def test_log_holds_no_event_times_of_features_that_the_caller_sent(serving_room):
    serving_room.infer(a_request(features_input(0.5)))

    assert [()] == [row.event_times_us for row in serving_room.logged()]


def test_features_are_read_for_the_predictions_that_are_logged(serving_room):
    prediction = serving_room.infer(a_keys_request("f-1", "f-2"))

    assert list(prediction.prediction_ids) == serving_room.features.read_for


def test_features_are_read_within_the_bound_of_the_endpoint(serving_room):
    serving_room.infer(a_keys_request("UA-1"))
    serving_room.table.define(an_endpoint(staleness_max="2m"))
    serving_room.infer(a_keys_request("UA-1"))

    assert [0, 120_000] == serving_room.features.staleness_max_ms


def test_retry_with_the_same_id_logs_the_same_prediction_ids(serving_room):
    first = serving_room.infer(a_request(features_input(0.0, 0.1), id="r-7"))
    again = serving_room.infer(a_request(features_input(0.0, 0.1), id="r-7"))
    other = serving_room.infer(a_request(features_input(0.0, 0.1), id="r-8"))

    assert first.prediction_ids == again.prediction_ids
    assert 4 == len({*first.prediction_ids, *other.prediction_ids})


def test_request_that_cannot_be_logged_is_answered(serving_room):
    serving_room.publisher.errors.append(Unavailable("DELIVERY_UNKNOWN"))

    assert [1.0] == serving_room.infer(a_request()).scores.tolist()
    assert [] == serving_room.logged()


def test_canary_and_champion_shadow_each_other(room):
    room.serve(room.served(1), room.served(2), percent=50)

    for number in range(40):
        room.infer(a_keys_request(f"UA-{number}", id=str(number)))

    seen = {(e.arm, e.version, e.score, e.shadow_version, e.shadow_score) for e in room.logged()}
    assert {
        (events.ARM_CHAMPION, 1, 1.0, 2, 2.0),
        (events.ARM_CANARY, 2, 2.0, 1, 1.0),
    } == seen


def test_arms_with_other_features_each_get_their_own_from_one_read(room):
    champion = room.served(1)
    canary = room.served(2, features=("when:hour", "weather:rain"))
    room.features.value_by_feature = {"weather:wind": 0.25, "when:hour": 0.5}
    room.serve(champion, canary, percent=0)

    prediction = room.infer(a_keys_request("UA-1"))

    assert [[*FEATURES, "weather:rain"]] == room.features.asked
    assert (1.25, 2.5) == (prediction.scores[0], prediction.shadow.scores[0])
    assert (1, 3) == prediction.features.shape


def test_event_times_are_those_of_the_features_that_the_answering_arm_took(room):
    canary = room.served(2, features=("when:hour", "weather:rain"))
    room.features.event_us_by_feature = {"when:hour": 4, "weather:wind": 5, "weather:rain": 6}
    room.serve(room.served(1), canary, percent=0)

    room.infer(a_keys_request("UA-1"))

    assert [(5, -1, 4)] == [row.event_times_us for row in room.logged()]


def test_answer_does_not_wait_for_the_load_of_its_shadow(room):
    room.serve(room.served(1), canary=room.served(2), percent=0)
    canary = room.table.ready("delay")[1].canary.model
    assert canary.let_go()

    prediction = room.infer(a_request())

    assert (None, 1) == (prediction.shadow, room.shadows_failed)
    wait_until(lambda: canary.resident)
    assert room.infer(a_request()).shadow is not None
    room.models.stop(0)


def test_request_waits_for_a_model_that_left_memory(room):
    room.serve(room.served(1))
    assert room.table.ready("delay")[1].champion.model.let_go()

    assert [1.0] == room.infer(a_request()).scores
    room.models.stop(0)


def test_shadow_that_fails_is_left_out_and_counted(room):
    room.serve(room.served(1), room.served(2, onnx=a_model(math.nan)), percent=0)

    prediction = room.infer(a_request())

    assert (None, 1) == (prediction.shadow, room.shadows_failed)


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_score_that_is_not_finite_is_not_answered(room, score):
    room.serve(room.served(1, onnx=a_model(score)))

    with pytest.raises(HeadraceError, match="MODEL_NONFINITE"):
        room.infer(a_request())
    assert [] == room.logged()


def test_failure_of_the_runtime_is_told_without_its_text(room):
    room.serve(room.served(1, onnx=a_failing_model()))

    with pytest.raises(HeadraceError) as failed:
        room.infer(a_request(features_input(13.0)))
    assert ("MODEL_ERROR", {}) == (failed.value.reason, failed.value.metadata)


def test_wrong_number_of_features_is_refused(serving_room):
    with pytest.raises(HeadraceError, match="TENSOR_SHAPE"):
        serving_room.infer(a_request(a_tensor("features", "FP32", [[0.0, 1.0]])))


def test_unknown_endpoint_and_version_are_not_found(serving_room):
    with pytest.raises(NotFound, match="MODEL_UNKNOWN"):
        serving_room.infer(a_request(version=2))
    serving_room.table = ServingTable()
    with pytest.raises(NotFound, match="MODEL_UNKNOWN"):
        serving_room.infer(a_request())


def test_endpoint_without_a_version_is_not_ready(room):
    with pytest.raises(Conflict, match="MODEL_NOT_READY"):
        room.infer(a_request())


def test_stopped_endpoint_answers_nobody_before_anything_is_loaded_for_it(serving_room):
    serving_room.table.want(a_rollout(generation=2, stopped=True))

    with pytest.raises(Conflict, match="ENDPOINT_STOPPED"):
        serving_room.infer(a_request())
    assert [] == serving_room.logged()


def test_started_endpoint_answers_by_what_is_loaded(serving_room):
    asked = a_keys_request("UA-1")
    before = serving_room.infer(asked).served
    rollout = serving_room.table.state("delay").serving.rollout
    serving_room.table.want(replace(rollout, generation=2, stopped=True))
    serving_room.table.want(replace(rollout, generation=3))

    assert before == serving_room.infer(asked).served


def test_shadow_is_scored_and_answers_nobody(serving_room):
    serving_room.serve(serving_room.served(1), serving_room.served(2), percent=0)
    answers = [serving_room.infer(a_keys_request(f"UA-{number}")) for number in range(50)]

    assert {1} == {each.served.version for each in answers}
    assert {2} == {each.shadow.version for each in answers}


@pytest.mark.parametrize(
    ("left_s", "reason"), [(0.0, "DEADLINE_UNMET"), (4.0, "SERVICE_UNAVAILABLE")]
)
def test_read_that_the_callers_time_ended_says_nothing_of_the_feature_service(
    serving_room, monkeypatch, left_s, reason
):
    times_s = [5.0]

    def end(*_, **__):
        times_s[0] = left_s
        raise Unavailable("SERVICE_UNAVAILABLE", service="feature")

    monkeypatch.setattr(serving_room.features, "read", end)

    with pytest.raises(Unavailable, match=reason):
        serving_room.infer(a_keys_request("UA-1"), time_left_s=lambda: times_s[0])


def test_deadline_that_cannot_be_kept_costs_no_work(serving_room):
    with pytest.raises(Unavailable, match="DEADLINE_UNMET"):
        serving_room.infer(a_keys_request("UA-1"), time_left_s=lambda: 0.0)
    assert [] == serving_room.features.asked
    assert [] == serving_room.logged()


@pytest.mark.parametrize(
    "onnx",
    [b"", b"no model", a_model(1.0)[:-9], a_model(1.0, width=2), a_model(1.0, output="y")],
    ids=["empty", "garbage", "cut", "wrong width", "wrong output"],
)
def test_bytes_that_are_not_the_model_are_refused_and_the_old_version_serves(serving_room, onnx):
    serving_room.artifacts.upload(onnx)
    broken = a_served_version(2, onnx=onnx)

    with pytest.raises(HeadraceError, match="FORMAT"):
        serving_room.serve(broken)
    assert 1 == serving_room.infer(a_request()).served.version


def test_version_that_is_loaded_is_not_loaded_again(room):
    champion, canary = room.served(1), room.served(2)
    room.serve(champion, canary)
    room.artifacts.data_by_digest.clear()

    room.serve(canary)

    assert 2 == room.infer(a_request()).served.version


def test_generation_never_goes_back(serving_room):
    serving_room.serve(serving_room.served(2))
    serving_room.generation = 0

    serving_room.serve(serving_room.served(3))

    assert 2 == serving_room.infer(a_request()).served.version


def a_sum() -> bytes:
    """ONNX bytes: score = the sum of the features, which bears no absent one."""
    nodes = [helper.make_node("ReduceSum", ["features", "axes"], ["score"], keepdims=0)]
    axes = [helper.make_tensor("axes", TensorProto.INT64, [1], [1])]
    inputs = {"features": (TensorProto.FLOAT, ["rows", len(FEATURES)])}
    return onnx_bytes(nodes, axes, inputs=inputs, outputs={"score": (TensorProto.FLOAT, ["rows"])})


def test_absent_feature_that_the_model_does_not_bear_is_the_fault_of_who_sent_it(room):
    room.serve(room.served(1, onnx=a_sum()))
    room.features.value_by_feature = {"weather:wind": math.nan}

    with pytest.raises(HeadraceError, match=r"TENSOR_NONFINITE.*input=features"):
        room.infer(a_request(features_input(1.0, math.nan)))
    # By entity keys the caller has sent none.
    with pytest.raises(HeadraceError, match="MODEL_NONFINITE"):
        room.infer(a_keys_request("UA-1"))
    assert [1.0] == room.infer(a_request(features_input(1.0))).scores.tolist()


@pytest.mark.parametrize("left_s", [3.0, 60.0])
def test_features_are_waited_for_as_long_as_the_caller_waits_up_to_a_bound(
    serving_room, monkeypatch, left_s
):
    waits_s = []
    read = serving_room.features.read

    def note(*arguments, timeout_s, **options):
        waits_s.append(timeout_s)
        return read(*arguments, timeout_s=timeout_s, **options)

    monkeypatch.setattr(serving_room.features, "read", note)

    serving_room.infer(a_keys_request("UA-1"), time_left_s=lambda: left_s)

    assert [min(left_s, FEATURES_S_MAX)] == waits_s


def test_endpoint_whose_version_does_not_load_says_why(room):
    wanted = a_rollout()
    room.table.want(wanted)
    room.table.refuse(wanted, "MODEL_TOO_LARGE")
    with pytest.raises(Conflict) as refused:
        room.infer(a_request())

    assert ("MODEL_NOT_READY", "MODEL_TOO_LARGE") == (
        refused.value.reason,
        refused.value.metadata["cause"],
    )
    assert "INFERENCE_MODEL_MEMORY_BYTES_MAX" in refused.value.metadata["problem"]


def test_version_that_is_on_its_way_is_to_be_asked_again(room):
    wanted = a_rollout()
    room.table.want(wanted)
    with pytest.raises(Unavailable) as loading:
        room.infer(a_request())
    room.table.refuse(wanted, "SERVICE_UNAVAILABLE")
    with pytest.raises(Unavailable) as refused:
        room.infer(a_request())

    assert ("RESTORING", {"endpoint": "delay", "state": "loading"}) == (
        loading.value.reason,
        loading.value.metadata,
    )
    assert ("RESTORING", "SERVICE_UNAVAILABLE") == (
        refused.value.reason,
        refused.value.metadata["cause"],
    )

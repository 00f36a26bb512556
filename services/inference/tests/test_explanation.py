# SPDX-License-Identifier: Apache-2.0
"""Attributions: what each number of a row did to its answer."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper

from headrace.errors import Busy, HeadraceError, Invalid, Unavailable
from headrace_inference.adapters.long_calls import LongCalls
from headrace_inference.domain import explanation
from headrace_inference.domain.explanation import OCCLUDED_ROWS_MAX
from headrace_inference.domain.rollout import Rollout
from headrace_inference.domain.serving import ServingTable
from headrace_inference.handlers import infer, predict, serve_rollout
from headrace_inference.testing import (
    FEATURES,
    MemoryArtifactStore,
    MemoryFeatureReader,
    MemoryPredictionLog,
    a_keys_request,
    a_request,
    a_running_sum,
    a_served_version,
    a_tensor,
    an_adder,
    an_endpoint,
    models_of,
    onnx_bytes,
)
from headrace_kit.testing import FixedClock

WEIGHTS = (2.0, -1.0, 0.5)
ROWS_MAX = 8
NUMBERS = st.floats(-1000, 1000, width=32) | st.just(float("nan"))


def a_weighed_sum() -> bytes:
    """ONNX bytes: score = 2 a - b + c / 2, where an absent feature counts as 0."""
    nodes = [
        helper.make_node("IsNaN", ["features"], ["absent"]),
        helper.make_node("Where", ["absent", "zero", "features"], ["present"]),
        helper.make_node("MatMul", ["present", "weights"], ["score"]),
    ]
    constants = [
        helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        helper.make_tensor("weights", TensorProto.FLOAT, [len(WEIGHTS)], WEIGHTS),
    ]
    inputs = {"features": (TensorProto.FLOAT, ["rows", len(WEIGHTS)])}
    return onnx_bytes(
        nodes, constants, inputs=inputs, outputs={"score": (TensorProto.FLOAT, ["rows"])}
    )


def a_classifier() -> bytes:
    """ONNX bytes: y [rows, 2] = (sum of x [rows, 2, 2], n), and the sum as text."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["total"], keepdims=0),
        helper.make_node("Unsqueeze", ["total", "last"], ["sum"]),
        helper.make_node("Concat", ["sum", "n"], ["y"], axis=1),
        helper.make_node("Cast", ["total"], ["text"], to=TensorProto.STRING),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("last", TensorProto.INT64, [1], [1]),
    ]
    inputs = {
        "x": (TensorProto.FLOAT, ["rows", 2, 2]),
        "n": (TensorProto.FLOAT, ["rows", 1]),
    }
    outputs = {
        "text": (TensorProto.STRING, ["rows"]),
        "y": (TensorProto.FLOAT, ["rows", 2]),
    }
    return onnx_bytes(nodes, constants, inputs=inputs, outputs=outputs)


class Endpoint:
    """One version on the real runtime, asked by the handler."""

    def __init__(self, onnx: bytes, features=()):
        self.table, self.log = ServingTable(), MemoryPredictionLog()
        self.features = MemoryFeatureReader()
        self.table.define(an_endpoint())
        artifacts = MemoryArtifactStore()
        artifacts.upload(onnx)
        rollout = Rollout("delay", "m", 1, a_served_version(1, onnx=onnx, features=features))
        self.table.want(rollout)
        serve_rollout(rollout, table=self.table, models=models_of(artifacts))

    def ask(self, request, *outputs, time_left_s=lambda: 5.0, explaining=nullcontext):
        request = type(request)(
            request.endpoint, request.version, request.id, request.inputs, outputs
        )
        bound = partial(
            predict,
            table=self.table,
            features=self.features,
            clock=FixedClock(1_700_000_000_000_000),
            rows_max=ROWS_MAX,
            explaining=explaining,
            on_failed=lambda _: None,
        )
        prediction = infer(request, predict=bound, log=self.log, time_left_s=time_left_s)
        return {each.name: each for each in prediction.answer(outputs)}


@pytest.fixture(scope="module")
def scored():
    return Endpoint(a_weighed_sum(), FEATURES)


@pytest.fixture(scope="module")
def classified():
    return Endpoint(a_classifier())


@given(arrays(np.float32, st.tuples(st.integers(1, 5), st.just(3)), elements=NUMBERS))
def test_a_weighed_sum_is_explained_by_its_terms(scored, features):
    answer = scored.ask(a_request(a_tensor("features", "FP32", features)), "attributions")

    found = answer["attributions"]
    assert (features.shape, "FP32") == (found.shape, found.datatype)
    terms = np.nan_to_num(features) * np.array(WEIGHTS)
    # The score is FP32: what is left of a difference is as exact as the larger of the two.
    assert np.allclose(terms, found.values, atol=1e-6 * np.abs(terms).sum() + 1e-30)


def test_an_absent_feature_did_nothing(scored):
    row = a_tensor("features", "FP32", [[np.nan, 1.0, 4.0]])

    answer = scored.ask(a_request(row), "score", "attributions")

    assert [1.0] == answer["score"].values.tolist()
    assert [[0.0, -1.0, 2.0]] == answer["attributions"].values.tolist()


def test_features_that_the_server_reads_are_explained(scored):
    scored.features.value_by_feature = {"weather:wind": 3.0}

    answer = scored.ask(a_keys_request("UA-1", "UA-2"), "attributions")

    assert [[6.0, 0.0, 0.0]] * 2 == answer["attributions"].values.tolist()


def test_the_log_keeps_an_explained_answer_like_any_other(scored):
    scored.log.predictions.clear()

    scored.ask(a_request(), "attributions")

    (logged,) = scored.log.predictions
    assert ["score"] == list(logged.outputs)


def test_of_several_numbers_the_largest_is_explained(classified):
    x = a_tensor("x", "FP32", [[[1.0, 2.0], [3.0, 4.0]], [[0.0, 1.0], [0.0, 0.0]]])
    n = a_tensor("n", "FP32", [[5.0], [7.0]])

    answer = classified.ask(a_request(x, n), "y", "attributions.x", "attributions.n")

    # The first row's sum is 10 and above its n; the second row's n is above its sum.
    moved = answer["attributions.x"].values
    assert [[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]] == moved.tolist()
    assert [[0.0], [7.0]] == answer["attributions.n"].values.tolist()


def test_text_is_passed_over_for_the_first_output_of_numbers(classified):
    x, n = a_tensor("x", "FP32", [[[1.0, 2.0], [3.0, 4.0]]]), a_tensor("n", "FP32", [[5.0]])

    answer = classified.ask(a_request(x, n), "attributions.x")

    assert [[[1.0, 2.0], [3.0, 4.0]]] == answer["attributions.x"].values.tolist()


def test_text_alone_is_not_explained(classified):
    x, n = a_tensor("x", "FP32", [[[1.0, 2.0], [3.0, 4.0]]]), a_tensor("n", "FP32", [[5.0]])

    with pytest.raises(Invalid) as refused:
        classified.ask(a_request(x, n), "text", "attributions.x")

    assert "UNSUPPORTED" == refused.value.reason


@pytest.mark.parametrize(
    ("onnx", "request_", "name"),
    [
        # Whole numbers, and rows that are not answered apart.
        (an_adder(), None, "attributions.INPUT0"),
        (a_running_sum(), a_request(a_tensor("x", "FP32", [[1.0, 2.0]])), "attributions.x"),
        (a_classifier(), None, "attributions"),
        (a_classifier(), None, "attributions.y"),
    ],
)
def test_what_cannot_be_explained_is_an_unknown_output(onnx, request_, name):
    sixteen = [list(range(16))]
    request = request_ or a_request(
        *(a_tensor(each, "INT32", sixteen) for each in ("INPUT0", "INPUT1"))
    )

    with pytest.raises(Invalid) as refused:
        Endpoint(onnx).ask(request, name)

    assert "TENSOR_NAME" == refused.value.reason


def test_explanation_that_moves_to_no_number_is_refused_and_not_logged(scored):
    scored.log.predictions.clear()
    row = a_tensor("features", "FP32", [[1.7e38, -1.7e38, 0.0]])

    with pytest.raises(HeadraceError) as refused:
        scored.ask(a_request(row), "attributions")

    assert "MODEL_NONFINITE" == refused.value.reason
    assert [] == scored.log.predictions


def test_explanation_must_fit_into_the_deadline(scored):
    (_, serving) = scored.table.ready("delay")
    one_row_s = serving.champion.model.least_s(1)

    with pytest.raises(Unavailable) as refused:
        scored.ask(a_request(), "attributions", time_left_s=lambda: one_row_s)

    assert "DEADLINE_UNMET" == refused.value.reason


def test_explanation_ends_between_two_runs_when_its_time_is_over(scored, monkeypatch):
    model = scored.table.ready("delay")[1].champion.model
    run, runs = model.run, []

    def count(inputs, outputs, *ending):
        runs.append(len(inputs["features"]))
        return run(inputs, outputs, *ending)

    monkeypatch.setattr(model, "run", count)
    rows = a_tensor("features", "FP32", np.ones((ROWS_MAX, len(WEIGHTS))))

    with pytest.raises(Unavailable) as refused:
        scored.ask(
            a_request(rows), "attributions", time_left_s=lambda: 5.0 if len(runs) < 2 else 0.0
        )

    assert ("DEADLINE_UNMET", [ROWS_MAX] * 2) == (refused.value.reason, runs)


def test_explanation_without_a_place_is_refused_and_others_are_answered(scored):
    explaining = LongCalls(1).place
    row = a_tensor("features", "FP32", [[1.0, 0.0, 0.0]])
    with explaining(), pytest.raises(Busy) as refused:
        scored.ask(a_request(row), "attributions", explaining=explaining)
    assert "QUEUE_FULL" == refused.value.reason

    with explaining():
        assert [2.0] == scored.ask(a_request(row), explaining=explaining)["score"].values.tolist()
    scored.ask(a_request(row), "attributions", explaining=explaining)


def test_explanation_of_too_many_numbers_is_refused():
    nodes = [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)]
    axes = [helper.make_tensor("axes", TensorProto.INT64, [1], [1])]
    wide = OCCLUDED_ROWS_MAX + 1
    onnx = onnx_bytes(
        nodes,
        axes,
        inputs={"x": (TensorProto.FLOAT, ["rows", wide])},
        outputs={"y": (TensorProto.FLOAT, ["rows"])},
    )

    with pytest.raises(Busy) as refused:
        Endpoint(onnx).ask(a_request(a_tensor("x", "FP32", np.ones((1, wide)))), "attributions.x")

    assert "BATCH_TOO_LARGE" == refused.value.reason


def test_rows_that_are_large_stand_in_few_copies_in_a_run(monkeypatch):
    wide = 1_000
    onnx = onnx_bytes(
        [helper.make_node("Identity", ["x"], ["y"])],
        [],
        inputs={"x": (TensorProto.FLOAT, ["rows", "n"])},
        outputs={"y": (TensorProto.FLOAT, ["rows", "n"])},
    )
    endpoint, ran = Endpoint(onnx), []
    monkeypatch.setattr(explanation, "RUN_BYTES_MAX", 3 * wide * 4)
    (_, serving) = endpoint.table.ready("delay")
    run = type(serving.champion.model).run

    def noted(model, inputs, outputs, *ending):
        ran.append(sum(array.nbytes for array in inputs.values()))
        return run(model, inputs, outputs, *ending)

    monkeypatch.setattr(type(serving.champion.model), "run", noted)

    answer = endpoint.ask(a_request(a_tensor("x", "FP32", np.ones((1, wide)))), "attributions.x")

    assert 3 * wide * 4 == max(ran)
    # All are alike, so the first is the largest: it alone is explained.
    assert [1.0] + [0.0] * (wide - 1) == answer["attributions.x"].values[0].tolist()

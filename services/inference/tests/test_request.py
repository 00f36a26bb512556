# SPDX-License-Identifier: Apache-2.0
"""Which door a request came by, and the answer to each input that does not fit (FAULTS 8.2)."""

import math

import numpy as np
import pytest

from headrace.errors import HeadraceError
from headrace_inference.domain.request import Door, InferRequest, check_outputs, read_batch
from headrace_inference.testing import a_keys_request, a_request, a_tensor, an_endpoint
from headrace_kit.clock import CLOCK_SKEW_US

NOW_US = 1_362_000_000_000_000


def read(request):
    return read_batch(request, an_endpoint(), now_us=NOW_US, rows_max=4)


def keys_request(**inputs):
    """By keys, one row, with some inputs replaced, added or (None) left out."""
    given = dict(a_keys_request("UA-1").inputs)
    for name, tensor in inputs.items():
        given.pop(name, None)
        if tensor is not None:
            given[name] = a_tensor(name, *tensor)
    return a_request(*given.values())


def test_tensors_are_told_by_the_input_called_features():
    batch = read(a_request(a_tensor("features", "FP32", [[1.0, math.nan, 3.0]])))

    assert (Door.TENSORS, 1, [""]) == (batch.door, batch.rows, batch.entity_keys)
    np.testing.assert_array_equal([[1.0, math.nan, 3.0]], batch.features)


def test_columns_come_in_the_order_of_the_endpoint():
    batch = read(a_keys_request("UA-1", "UA-2"))

    assert (Door.ENTITY_KEYS, ["UA-1", "UA-2"]) == (batch.door, batch.entity_keys)
    expected = [("flight_id", ["UA-1", "UA-2"]), ("distance", [100.0, 100.0]), ("minutes", [5, 5])]
    assert expected == [(column.name, column.values) for column in batch.columns]


def test_absent_number_of_a_column_stays_absent():
    batch = read(keys_request(distance=("FP64", [math.nan])))

    assert math.isnan(batch.columns[1].values[0])


def test_as_of_is_now_or_the_parameter_or_the_input():
    request = a_request()
    by_parameter = InferRequest("delay", None, "r-1", request.inputs, as_of_us=7)
    by_input = keys_request(as_of_us=("INT64", [9]))

    assert [[NOW_US], [7], [9]] == [
        read(r).as_of_us.tolist() for r in (request, by_parameter, by_input)
    ]


@pytest.mark.parametrize("ahead_us", [CLOCK_SKEW_US + 1, 10**15])
def test_features_of_a_moment_to_come_are_refused(ahead_us):
    inputs, moment_us = a_keys_request("UA-1").inputs, NOW_US + ahead_us
    by_input = keys_request(as_of_us=("INT64", [moment_us]))

    for request in (InferRequest("delay", None, "r-1", inputs, as_of_us=moment_us), by_input):
        with pytest.raises(HeadraceError, match=r"BAD_REQUEST.*still to come"):
            read(request)


def test_moment_of_a_clock_that_is_a_little_ahead_is_taken():
    moment_us = NOW_US + CLOCK_SKEW_US

    assert [moment_us] == read(keys_request(as_of_us=("INT64", [moment_us]))).as_of_us.tolist()


def test_tensors_may_be_of_a_moment_to_come():
    """Nothing is read for them: who sends them knows what they are."""
    tensors = a_tensor("features", "FP32", [[0.0] * 3])
    moment = a_tensor("as_of_us", "INT64", [NOW_US + 10**15])

    assert [NOW_US + 10**15] == read(a_request(tensors, moment)).as_of_us.tolist()


def test_tensors_may_name_their_entity_for_the_log():
    features = a_tensor("features", "FP32", [[0.0] * 3] * 2)

    assert ["a", ""] == read(
        a_request(features, a_tensor("entity_key", "BYTES", ["a", ""]))
    ).entity_keys


FEATURES_INPUT = a_tensor("features", "FP32", [[0.0, 1.0, 2.0]])


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (keys_request(distance=None), "TENSOR_NAME"),
        (keys_request(color=("BYTES", ["red"])), "TENSOR_NAME"),
        (a_request(FEATURES_INPUT, a_tensor("flight_id", "BYTES", ["a"])), "TENSOR_NAME"),
        (keys_request(entity_key=("BYTES", ["a"])), "TENSOR_NAME"),
        (InferRequest("delay", None, "r-1", {}), "TENSOR_NAME"),
        (a_request(a_tensor("features", "FP64", [[0.0]])), "TENSOR_DTYPE"),
        (keys_request(distance=("FP32", [1.0])), "TENSOR_DTYPE"),
        (keys_request(flight_id=("INT64", [1])), "TENSOR_DTYPE"),
        (keys_request(as_of_us=("FP64", [1.0])), "TENSOR_DTYPE"),
        (a_request(a_tensor("features", "FP32", [0.0, 1.0])), "TENSOR_SHAPE"),
        (a_request(a_tensor("features", "FP32", [[[0.0]]])), "TENSOR_SHAPE"),
        (a_request(a_tensor("features", "FP32", np.zeros((0, 3)))), "TENSOR_SHAPE"),
        (keys_request(distance=("FP64", [[1.0]])), "TENSOR_SHAPE"),
        (keys_request(distance=("FP64", [1.0, 2.0])), "TENSOR_SHAPE"),
        (a_request(FEATURES_INPUT, a_tensor("as_of_us", "INT64", [1, 2])), "TENSOR_SHAPE"),
        (a_keys_request(*"abcde"), "BATCH_TOO_LARGE"),
        (a_request(a_tensor("features", "FP32", [[0.0, math.inf, 0.0]])), "TENSOR_NONFINITE"),
        (a_request(a_tensor("features", "FP32", [[0.0, -math.inf, 0.0]])), "TENSOR_NONFINITE"),
        (keys_request(distance=("FP64", [math.inf])), "TENSOR_NONFINITE"),
        (keys_request(flight_id=("BYTES", [b"\xff"])), "TENSOR_CONTENT"),
        (keys_request(flight_id=("BYTES", [""])), "KEY_MISSING"),
        (keys_request(flight_id=("BYTES", ["a\0b"])), "BAD_ID"),
        (keys_request(flight_id=("BYTES", ["a\u202eb"])), "BAD_ID"),
        (keys_request(flight_id=("BYTES", ["a" * 129])), "BAD_ID"),
        (a_request(FEATURES_INPUT, a_tensor("entity_key", "BYTES", ["\n"])), "BAD_ID"),
        (keys_request(as_of_us=("INT64", [-1])), "BAD_TIMESTAMP"),
        (keys_request(as_of_us=("INT64", [2**62])), "BAD_TIMESTAMP"),
    ],
)
def test_input_that_does_not_fit_is_refused(request_, reason):
    with pytest.raises(HeadraceError) as refused:
        read(request_)

    assert reason == refused.value.reason


def test_numeric_entity_key_must_be_a_number():
    endpoint = an_endpoint().model_copy(update={"entity_key": "distance"})

    with pytest.raises(HeadraceError, match="TENSOR_NONFINITE"):
        read_batch(keys_request(distance=("FP64", [math.nan])), endpoint, now_us=NOW_US, rows_max=4)


def test_as_of_given_twice_is_refused():
    inputs = {"as_of_us": a_tensor("as_of_us", "INT64", [1]), "features": FEATURES_INPUT}

    with pytest.raises(HeadraceError, match="BAD_REQUEST"):
        read(InferRequest("delay", None, "r-1", inputs, as_of_us=1))


@pytest.mark.parametrize("outputs", [("probability",), ("score", "score")])
def test_output_unknown_or_asked_twice_is_refused(outputs):
    with pytest.raises(HeadraceError, match="TENSOR_NAME"):
        check_outputs(outputs)

# SPDX-License-Identifier: Apache-2.0
"""Online reads as a door hands them over, with who calls."""

import pytest
from feature_world import START, World
from test_archive_waits import ASKED_US, an_api

from headrace.errors import Busy, Denied, Invalid
from headrace.feature.v1 import feature_service_pb2 as wire
from headrace.tokens import Caller
from headrace_feature.adapters.memory_archive import MemoryArchive
from headrace_feature.domain.online_query import FEATURES_MAX, PREDICTING_SKEW_US
from headrace_kit.clock import CLOCK_SKEW_US
from headrace_kit.grpc_client import MESSAGE_BYTES_MAX
from headrace_kit.hot_calls import HotCall


class Notes:
    """What was to be noted."""

    def __init__(self):
        self.ids, self.asked = [], []

    def noted(self, queries):
        self.asked += [([*each.features], each.as_of_us.tolist()) for each in queries.values()]
        self.ids += [each for query in queries.values() for each in query.prediction_ids]
        return dict(queries)


@pytest.fixture
def api(tmp_path):
    made = an_api(tmp_path, MemoryArchive({}), world=World())
    made._notes = Notes()
    return made


def a_call(*permissions, ids=(), as_of_us=(START,), features=("zone:count_1h",), times=False):
    request = wire.GetOnlineFeaturesRequest(
        features=features,
        columns=[wire.Column(name="zone", strings=wire.StringValues(values=["a"] * len(as_of_us)))],
        as_of_us=as_of_us,
        prediction_ids=ids,
        include_times=times,
    )
    caller = Caller("shop", frozenset(permissions))
    payload = request.SerializeToString()
    return HotCall(payload, caller=caller, arrived_s=0.0, deadline_s=1.0, reply=lambda *_: None)


def test_reader_may_not_have_predictions_noted_and_reads_without_them(api):
    denied, read = api.answer_reads([a_call("read", ids=["p1"]), a_call("read")])

    assert isinstance(denied, Denied)
    assert {"caller": "shop", "action": "peer"} == denied.metadata
    assert isinstance(read, bytes)
    assert [] == api._notes.ids


@pytest.mark.parametrize("permissions", [("read", "peer"), ("*",)])
def test_predictions_of_a_caller_that_may_are_noted(api, permissions):
    [answer] = api.answer_reads([a_call(*permissions, ids=["p1"])])

    assert isinstance(answer, bytes)
    assert ["p1"] == api._notes.ids


@pytest.mark.parametrize("ahead_us", [CLOCK_SKEW_US + 1, 10**15])
def test_read_of_a_moment_to_come_is_refused_alone_and_notes_nothing(api, ahead_us):
    calls = [
        a_call("*", as_of_us=[START, ASKED_US + ahead_us]),
        a_call("*", ids=["p3"]),
    ]

    refused, read = api.answer_reads(calls)

    assert isinstance(refused, Invalid)
    assert ("BAD_REQUEST", "as_of_us") == (refused.reason, refused.metadata["field"])
    assert "still to come" in refused.metadata["problem"]
    assert isinstance(read, bytes)
    assert ["p3"] == api._notes.ids


def test_now_of_an_inference_whose_clock_is_minutes_ahead_is_answered_as_of_it(api):
    """The log of the prediction names that moment: it can be made again."""
    moments = [ASKED_US + CLOCK_SKEW_US + 1, ASKED_US + PREDICTING_SKEW_US]

    [answer] = api.answer_reads([a_call("*", ids=["p1", "p2"], as_of_us=moments)])

    assert isinstance(answer, bytes)
    assert [(["zone:count_1h"], moments)] == api._notes.asked


def test_now_of_an_inference_whose_clock_is_far_ahead_is_refused_and_not_noted(api):
    moments = [ASKED_US + PREDICTING_SKEW_US + 1]

    [refused] = api.answer_reads([a_call("*", ids=["p1"], as_of_us=moments)])

    assert "BAD_REQUEST" == refused.reason
    assert [] == api._notes.ids


def test_read_of_a_clock_that_is_a_little_ahead_is_answered(api):
    [read] = api.answer_reads([a_call("read", as_of_us=[ASKED_US + CLOCK_SKEW_US])])

    assert isinstance(read, bytes)


@pytest.mark.parametrize(
    ("rows", "times", "bytes_of_value"), [(4_097, False, 4), (1_366, True, 12)]
)
def test_answer_that_no_message_holds_is_refused_before_anything_is_read(
    api, monkeypatch, rows, times, bytes_of_value
):
    monkeypatch.setattr("headrace_feature.adapters.grpc_api.answer_together", unasked)
    features = [f"zone:f{n}" for n in range(1_024)]
    call = a_call("*", ids=["p"] * rows, as_of_us=[START] * rows, features=features, times=times)

    [refused] = api.answer_reads([call])

    assert isinstance(refused, Busy)
    asked_bytes = rows * 1_024 * bytes_of_value
    assert {"bytes": str(asked_bytes), "bytes_max": str(MESSAGE_BYTES_MAX)} == refused.metadata
    assert [] == api._notes.ids


def unasked(queries, _):
    assert [] == queries
    return []


def test_request_of_too_many_features_is_refused(api):
    [refused] = api.answer_reads([a_call("*", features=["zone:count_1h"] * (FEATURES_MAX + 1))])

    assert isinstance(refused, Invalid)
    assert ("BAD_REQUEST", "features") == (refused.reason, refused.metadata["field"])


def test_as_many_features_as_may_be_named_are_answered(api):
    [read] = api.answer_reads([a_call("*", features=["zone:count_1h"] * FEATURES_MAX)])

    assert isinstance(read, bytes)

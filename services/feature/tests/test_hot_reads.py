# SPDX-License-Identifier: Apache-2.0
"""Online reads as a door hands them over, with who calls."""

import pytest
from feature_world import START, World
from test_archive_waits import an_api

from headrace.errors import Denied
from headrace.feature.v1 import feature_service_pb2 as wire
from headrace.tokens import Caller
from headrace_feature.adapters.memory_archive import MemoryArchive
from headrace_kit.hot_calls import HotCall


class Notes:
    """What was to be noted."""

    def __init__(self):
        self.ids = []

    def noted(self, queries):
        self.ids += [each for query in queries.values() for each in query.prediction_ids]
        return dict(queries)


@pytest.fixture
def api(tmp_path):
    made = an_api(tmp_path, MemoryArchive({}), world=World())
    made._notes = Notes()
    return made


def a_call(*permissions, ids=()):
    request = wire.GetOnlineFeaturesRequest(
        features=["zone:count_1h"],
        columns=[wire.Column(name="zone", strings=wire.StringValues(values=["a"]))],
        as_of_us=[START],
        prediction_ids=ids,
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

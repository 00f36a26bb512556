# SPDX-License-Identifier: Apache-2.0
"""Rows reach the feature service by column; values come back with their age, absent as None."""

import math
import struct

import pytest

from headrace.application import parse_definition
from headrace.client import Client
from headrace.errors import Invalid, NotFound
from headrace.feature.v1 import feature_service_pb2 as wire

VIEW = parse_definition(
    {
        "kind": "view",
        "name": "zone",
        "description": "Rides.",
        "stream": "rides",
        "entity": ["zone"],
        "features": {
            "count_1h": {"aggregate": "count", "window": "1h"},
            "last": {"aggregate": "last_n", "n": 2, "column": "fare", "window": "1h"},
        },
    }
)


class FeatureStub:
    """Answers each value with the number of its place, the last one absent."""

    def GetOnlineFeatures(self, request, timeout):  # noqa: N802 - gRPC's name
        self.asked = request
        rows = max(len(getattr(c, c.WhichOneof("values")).values) for c in request.columns)
        values = [*map(float, range(rows * len(request.features) - 1)), math.nan]
        times_us = [*range(10, 9 + len(values)), -1]
        return wire.GetOnlineFeaturesResponse(
            rows=rows,
            values=struct.pack(f"<{len(values)}f", *values),
            event_times_us=struct.pack(f"<{len(values)}q", *times_us),
            known_until_us=7,
        )


@pytest.fixture
def client():
    made = Client()
    made.__dict__.update(_feature=FeatureStub(), definitions={("view", "zone"): VIEW})
    return made


def test_values_come_back_by_row_and_name_with_their_event_times(client):
    found = client.get_online_features([{"zone": "a"}, {"zone": "b"}], ["zone:count_1h", "zone:x"])

    told = [[(v.value, v.event_time_us) for v in row.values()] for row in found.rows]
    assert [[(0.0, 10), (1.0, 11)], [(2.0, 12), (None, None)]] == told
    assert [["zone:count_1h", "zone:x"]] * 2 == [list(row) for row in found.rows]
    assert 7 == found.known_until_us


def test_name_of_a_view_stands_for_all_that_it_answers(client):
    client.get_online_features([{"zone": "a"}], ["zone", "request:hour"])

    expected = ["zone:count_1h", "zone:last_1", "zone:last_2", "request:hour"]
    assert expected == list(client._feature.asked.features)


def test_moment_and_bound_reach_the_service_for_every_row(client):
    rows = [{"zone": "a"}, {"zone": "b"}]
    client.get_online_features(rows, ["zone:count_1h"], as_of_us=5, staleness_max_ms=900)

    asked = client._feature.asked
    assert ([5, 5], 900, True) == (
        list(asked.as_of_us),
        asked.staleness_max_ms,
        asked.include_times,
    )


@pytest.mark.parametrize(
    ("values", "kind", "sent"),
    [
        (["a", None], "strings", ["a", ""]),
        ([True, False], "strings", ["true", "false"]),
        ([1, -2], "int64s", [1, -2]),
        ([1, 2.5], "doubles", [1.0, 2.5]),
    ],
)
def test_values_of_a_column_are_sent_as_what_they_are(client, values, kind, sent):
    client.get_online_features([{"zone": value} for value in values], ["zone:count_1h"])

    [column] = client._feature.asked.columns
    assert (kind, sent) == (column.WhichOneof("values"), list(getattr(column, kind).values))


@pytest.mark.parametrize("value", [b"a", 1 << 63, "\ud800", object()])
def test_value_that_cannot_be_sent_is_told_by_its_column(client, value):
    with pytest.raises(Invalid, match="BAD_REQUEST") as refused:
        client.get_online_features([{"zone": value}], ["zone:count_1h"])
    assert "zone" == refused.value.metadata["column"]


def test_absent_column_is_named_by_row(client):
    with pytest.raises(Invalid, match="BAD_REQUEST") as refused:
        client.get_online_features([{"zone": "a"}, {}], ["zone:count_1h"])
    assert {"row": "2", "missing": "zone"} == refused.value.metadata


def test_view_that_is_not_applied_is_unknown(client):
    with pytest.raises(NotFound, match="VIEW_UNKNOWN"):
        client.get_online_features([{"zone": "a"}], ["none"])

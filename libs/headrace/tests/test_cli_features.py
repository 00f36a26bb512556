# SPDX-License-Identifier: Apache-2.0
"""headrace features get shows values with their age to people, and as JSON when asked."""

import json
import math

import pytest
from typer.testing import CliRunner

from headrace.application import parse_definition
from headrace.cli import features
from headrace.cli.main import app
from headrace.feature.v1.feature_service_pb2 import CheckSkewResponse, SkewMismatch
from headrace.online_features import FeatureValue, OnlineFeatures

NINE_O_CLOCK_US = 1_362_128_400_000_000


def a_view(name, *entity):
    return parse_definition(
        {
            "kind": "view",
            "name": name,
            "description": "Departures.",
            "stream": "departures",
            "entity": entity,
            "features": {"count_1h": {"aggregate": "count", "window": "1h"}},
        }
    )


class Platform:
    """Answers as a client does, and keeps what it was asked."""

    skew = CheckSkewResponse()

    def __init__(self):
        self.views = {"origin": a_view("origin", "origin"), "pair": a_view("pair", "from", "to")}

    def check_skew(self):
        return self.skew

    def get_online_features(self, rows, features, *, as_of_us, staleness_max_ms):
        self.asked = rows, features, as_of_us, staleness_max_ms
        row = {
            "origin:count_1h": FeatureValue(12.0, NINE_O_CLOCK_US),
            "origin:mean_1h": FeatureValue(None, None),
        }
        return OnlineFeatures([row] * len(rows), NINE_O_CLOCK_US + 1_000_000)


@pytest.fixture
def platform(monkeypatch):
    made = Platform()
    monkeypatch.setattr(features, "connect", lambda data_dir: made)
    monkeypatch.setenv("COLUMNS", "160")
    return made


def run(*arguments):
    return CliRunner().invoke(app, ["features", "get", *arguments])


def test_values_are_shown_with_their_age(platform):
    shown = run("origin", "JFK", "EWR").output

    for text in ("JFK", "EWR", "count_1h", "12", "2013-03-01 09:00:00Z", "absent", "09:00:01Z"):
        assert text in shown
    assert ([{"origin": "JFK"}, {"origin": "EWR"}], ["origin"], None, 0) == platform.asked


def test_json_has_a_line_for_each_entity(platform):
    lines = run("origin", "JFK", "EWR", "--json").output.splitlines()

    first, second = map(json.loads, lines)
    assert ({"origin": "JFK"}, {"origin": "EWR"}) == (first["entity"], second["entity"])
    expected = {"value": 12.0, "event_time_us": NINE_O_CLOCK_US}
    assert expected == first["features"]["origin:count_1h"]
    assert NINE_O_CLOCK_US + 1_000_000 == first["known_until_us"]


def test_chosen_features_moment_and_bound_reach_the_client(platform):
    chosen = ("--feature", "count_1h", "--as-of", "2013-03-01T09:00:00Z", "--staleness-max-ms", "9")
    run("origin", "JFK", *chosen)

    assert ([{"origin": "JFK"}], ["origin:count_1h"], NINE_O_CLOCK_US, 9) == platform.asked


def test_entity_of_several_columns_is_a_json_object(platform):
    run("pair", '{"to": "LAX", "from": 7}')

    assert [{"from": "7", "to": "LAX"}] == platform.asked[0]


@pytest.mark.parametrize("key", ["JFK", '{"from": "JFK"}', '["JFK", "LAX"]', '{"from": 1'])
def test_key_that_does_not_name_the_entity_is_refused(platform, key):
    answer = run("pair", key)

    assert 1 == answer.exit_code
    assert "from, to" in answer.output


def test_json_object_names_the_entity_of_one_column_too(platform):
    run("origin", '{"origin": "JFK"}', "7", "true", "[1]", '"JFK"')

    asked = [each["origin"] for each in platform.asked[0]]
    assert ["JFK", "7", "true", "[1]", '"JFK"'] == asked


def test_json_object_of_another_column_is_refused(platform):
    answer = run("origin", '{"from": "JFK"}')

    assert 1 == answer.exit_code
    assert "must be a JSON object of origin" in answer.output


def test_check_that_found_no_sample_does_not_pass_for_a_good_one(platform):
    answer = CliRunner().invoke(app, ["features", "check"])

    assert 0 == answer.exit_code
    assert "Nothing was sampled since the last check" in answer.output


def test_value_that_is_still_answered_otherwise_fails_the_check(platform):
    differ, settled = (
        SkewMismatch(
            feature="origin:count_1h",
            as_of_us=NINE_O_CLOCK_US,
            served=12.0,
            recomputed=math.nan,
            settled=settled,
        )
        for settled in (False, True)
    )
    platform.skew = CheckSkewResponse(checked=40, mismatches=[differ, settled])
    answer = CliRunner().invoke(app, ["features", "check"])

    assert 1 == answer.exit_code
    for text in ("origin:count_1h", "2013-03-01 09:00:00Z", "12", "absent", "as the archive"):
        assert text in answer.output
    assert "40 rows checked: 1 values differ; 1 did when they were served" in answer.output


def test_value_that_has_settled_fails_no_check(platform):
    settled = SkewMismatch(feature="origin:count_1h", served=12.0, recomputed=13.0, settled=True)
    platform.skew = CheckSkewResponse(checked=40, mismatches=[settled])

    assert 0 == CliRunner().invoke(app, ["features", "check"]).exit_code


def test_view_that_is_not_applied_is_unknown(platform):
    assert "VIEW_UNKNOWN" in run("none", "JFK").output


def test_view_without_an_entity_is_told_so(platform):
    ask = {"transform": "value", "column": "fare"}
    document = {"kind": "view", "name": "ask", "description": "Ask.", "features": {"fare": ask}}
    platform.views["ask"] = parse_definition(document)
    answer = run("ask", "JFK").output

    assert "BAD_REQUEST" in answer
    assert "has no entity" in answer

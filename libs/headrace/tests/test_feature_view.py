# SPDX-License-Identifier: Apache-2.0
"""A view says one thing in YAML, in Python and in the registry, and nonsense is told what to do."""

import pytest

from headrace.application import definition_json, parse_definition, parse_definition_json
from headrace.errors import Invalid
from headrace.feature_view import LIFETIME_S, StreamView, feature_names

MEAN = {"aggregate": "mean", "column": "fare", "window": "1h"}


def a_view(features: dict, **more: object) -> dict:
    return {
        "kind": "view",
        "name": "zone",
        "description": "Rides of a zone.",
        "stream": "rides",
        "entity": ["zone"],
        "features": features,
        **more,
    }


def test_last_n_is_answered_as_n_features():
    view = parse_definition(a_view({"fares": {**MEAN, "aggregate": "last_n", "n": 3}}))
    assert ["zone:fares_1", "zone:fares_2", "zone:fares_3"] == feature_names(view)


def test_everything_a_view_says_reads_back_from_the_registry():
    features = {
        "all": {"aggregate": "count", "window": "lifetime"},
        "day": {**MEAN, "window": "1d", "tumbling": True, "timezone": "America/New_York"},
        "p90": {**MEAN, "aggregate": "quantile", "q": 0.9, "default": 0.0},
        "share": {"ratio": ["day", "all"]},
    }
    weather = {
        "temp": {"stream": "air", "key": {"zone": "zone"}, "column": "temp", "max_age": "2h"}
    }
    document = a_view(features, filter="fare > 0", derive={"net": "fare - 1"}, lookups=weather)
    view = parse_definition({**document, "ttl": "7d"})

    assert view == parse_definition_json(definition_json(view))
    assert LIFETIME_S == view.features["all"].window_s


def test_view_with_lookups_publishes_no_rows():
    air = {"stream": "air", "key": {"zone": "zone"}, "column": "temp", "max_age": "2h"}
    with pytest.raises(Invalid, match="publish no rows"):
        parse_definition(a_view({"mean": MEAN}, lookups={"temp": air}, publish_rows=True))


def test_python_says_what_yaml_says():
    view = parse_definition(a_view({"mean": MEAN}))
    assert view == StreamView(**view.model_dump(by_alias=True, mode="json"))


@pytest.mark.parametrize(
    ("feature", "problem"),
    [
        ({**MEAN, "aggregate": "last_n"}, "last_n needs n"),
        ({**MEAN, "n": 2}, "every other aggregate takes none"),
        ({**MEAN, "aggregate": "quantile"}, "quantile needs q"),
        ({**MEAN, "aggregate": "quantile", "q": 0.12345}, "four decimals"),
        ({**MEAN, "window": "forever"}, "such as 15m"),
        ({**MEAN, "window": "1000000d"}, "key=features.other.window.*at most 146400d, or lifetime"),
        ({**MEAN, "timezone": "Europe/Paris"}, "tumbling window"),
        ({**MEAN, "tumbling": True, "timezone": "Europe/Paris"}, "whole days"),
        ({**MEAN, "tumbling": True, "timezone": "Mars/Base", "window": "1d"}, "Europe/Paris"),
        ({**MEAN, "tumbling": True, "window": "lifetime"}, "take tumbling away"),
        ({"ratio": ["mean", "count"]}, "needs count to be a feature with a window"),
        ({"ratio": ["mean", "other"]}, "needs other to be a feature with a window"),
        ({**MEAN, "default": float("nan")}, "finite number"),
    ],
)
def test_feature_that_makes_no_sense_is_refused(feature, problem):
    with pytest.raises(Invalid, match=problem):
        parse_definition(a_view({"mean": MEAN, "other": feature}))


@pytest.mark.parametrize(
    ("view", "problem"),
    [
        (a_view({"a": {**MEAN, "aggregate": "last_n", "n": 1}, "a_1": MEAN}), "two features"),
        (
            a_view(
                {"mean": MEAN},
                derive={"temp": "fare"},
                lookups={
                    "temp": {
                        "stream": "air",
                        "key": {"zone": "zone"},
                        "column": "temp",
                        "max_age": "2h",
                    }
                },
            ),
            "derived and looked up",
        ),
        (a_view({"mean": MEAN}, entity=["zone", "zone"]), "entity names zone twice"),
    ],
)
def test_name_that_means_two_things_is_refused(view, problem):
    with pytest.raises(Invalid, match=problem):
        parse_definition(view)


@pytest.mark.parametrize("boundaries", [None, [2, 1], [1, 1]])
def test_buckets_without_growing_boundaries_are_refused(boundaries):
    feature = {"transform": "bucketize", "column": "fare", "boundaries": boundaries}
    request = {"kind": "view", "name": "ask", "description": "Ask.", "features": {"a": feature}}
    with pytest.raises(Invalid, match="boundaries"):
        parse_definition(request)

# SPDX-License-Identifier: Apache-2.0
"""Encoded online reads: what was learnt of one request says nothing else of the next."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import Invalid
from headrace.feature.v1 import feature_service_pb2 as wire
from headrace_feature.adapters.conversions import to_query
from headrace_feature.adapters.query_reader import (
    BEGINNING_BYTES_MAX,
    BEGINNINGS_MAX,
    QueryReader,
)

NAMES = st.lists(st.sampled_from(["a:x", "a:xy", "b:x", "é:ü", ""]), max_size=4)
ROWS = st.lists(st.text(max_size=3), min_size=1, max_size=3)


@st.composite
def requests(draw):
    request = wire.GetOnlineFeaturesRequest(
        features=draw(NAMES),
        as_of_us=draw(st.lists(st.integers(0, 2**62), max_size=2)),
        include_times=draw(st.booleans()),
        staleness_max_ms=draw(st.integers(0, 9)),
        prediction_ids=draw(st.lists(st.text(max_size=2), max_size=2)),
    )
    if draw(st.booleans()):
        request.columns.add(name="user").strings.values.extend(draw(ROWS))
    return request


def same(query, other):
    assert query.features == other.features
    assert query.columns == other.columns
    assert query.as_of_us.dtype == other.as_of_us.dtype
    np.testing.assert_array_equal(query.as_of_us, other.as_of_us)
    rest = ("include_times", "staleness_max_ms", "prediction_ids")
    assert [getattr(query, name) for name in rest] == [getattr(other, name) for name in rest]


@given(st.lists(requests(), max_size=20))
def test_each_request_is_read_as_it_is_alone(asked):
    reader = QueryReader()

    for request in asked:
        same(reader.read(request.SerializeToString()), to_query(request))


def test_features_behind_the_other_fields_are_read_too():
    known = wire.GetOnlineFeaturesRequest(features=["a:x"])
    known.columns.add(name="user").strings.values.append("u1")
    more = wire.GetOnlineFeaturesRequest(features=["b:x"])
    reader = QueryReader()
    reader.read(known.SerializeToString())

    query = reader.read(known.SerializeToString() + more.SerializeToString())

    assert ("a:x", "b:x") == query.features
    assert {"user": ["u1"]} == query.columns


@pytest.mark.parametrize("cut", [1, 7])
def test_request_that_is_cut_short_behind_what_is_known_is_refused(cut):
    request = wire.GetOnlineFeaturesRequest(features=["a:x"])
    request.columns.add(name="user").strings.values.append("u1")
    reader = QueryReader()
    reader.read(request.SerializeToString())

    with pytest.raises(Invalid) as refused:
        reader.read(request.SerializeToString()[:-cut])
    assert "DECODE_ERROR" == refused.value.reason


def test_few_beginnings_are_kept_and_no_long_one():
    reader = QueryReader()
    for number in range(3 * BEGINNINGS_MAX):
        request = wire.GetOnlineFeaturesRequest(features=[f"{number}:x"])
        assert (f"{number}:x",) == reader.read(request.SerializeToString()).features
    long = wire.GetOnlineFeaturesRequest(features=["x" * BEGINNING_BYTES_MAX])
    reader.read(long.SerializeToString())

    kept = [features for _, features in reader._known]
    assert [(f"{n}:x",) for n in reversed(range(2 * BEGINNINGS_MAX, 3 * BEGINNINGS_MAX))] == kept

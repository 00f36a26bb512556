# SPDX-License-Identifier: Apache-2.0
"""Another service that refuses this one's token is away, for who asks for a prediction."""

from dataclasses import replace

import numpy as np
import pytest

from headrace.errors import Denied, Unavailable
from headrace.feature.v1 import feature_service_pb2 as feature_pb
from headrace_inference.adapters import conversions
from headrace_inference.adapters.grpc_clients import GrpcArtifactSource, GrpcFeatureReader
from headrace_inference.domain.request import Batch, Column, Door
from headrace_kit.testing import RefusingChannel

STALE = RefusingChannel(Denied("TOKEN_UNKNOWN"))


def a_batch(rows: int = 1) -> Batch:
    columns = (Column("zone_id", ["5"] * rows),)
    return Batch(Door.ENTITY_KEYS, ["5"] * rows, np.zeros(rows, np.int64), columns=columns)


def test_features_are_asked_for_with_their_event_times():
    assert conversions.features_request(["zone:a"], a_batch(), ["p"]).include_times


def test_features_are_asked_for_with_the_bound_of_their_endpoint():
    batch = replace(a_batch(), staleness_max_ms=120_000)

    assert 120_000 == conversions.features_request(["zone:a"], batch, ["p"]).staleness_max_ms


def test_answer_that_is_too_large_with_its_event_times_is_asked_for_without():
    names = [f"zone:{number}" for number in range(1_400)]

    assert not conversions.features_request(names, a_batch(1_000), ["p"] * 1_000).include_times


def test_event_times_are_read_row_by_row():
    answer = feature_pb.GetOnlineFeaturesResponse(
        rows=2,
        values=np.arange(4, dtype="<f4").tobytes(),
        event_times_us=np.array([5, -1, 7, 8], "<i8").tobytes(),
    )
    rows = conversions.feature_rows(answer, (2, 2))

    assert [[0, 1], [2, 3]] == rows.values.tolist()
    assert [[5, -1], [7, 8]] == rows.event_us.tolist()


def test_feature_service_of_a_version_before_tells_no_event_times():
    answer = feature_pb.GetOnlineFeaturesResponse(rows=1, values=bytes(4))

    assert conversions.feature_rows(answer, (1, 1)).event_us is None


def test_caller_does_not_hear_that_the_token_of_this_service_is_unknown():
    with pytest.raises(Unavailable, match=r"SERVICE_UNAVAILABLE.*service=feature"):
        GrpcFeatureReader(STALE).read(["zone:a"], a_batch(), prediction_ids=["p"], timeout_s=1.0)


def test_artifact_is_away_while_the_registry_refuses_the_token():
    with pytest.raises(Unavailable, match=r"SERVICE_UNAVAILABLE.*service=registry"):
        list(GrpcArtifactSource(STALE).chunks("d" * 64))

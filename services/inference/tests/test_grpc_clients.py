# SPDX-License-Identifier: Apache-2.0
"""Another service that refuses this one's token is away, for who asks for a prediction."""

import numpy as np
import pytest

from headrace.errors import Denied, Unavailable
from headrace_inference.adapters.grpc_clients import GrpcArtifactSource, GrpcFeatureReader
from headrace_inference.domain.request import Batch, Column, Door
from headrace_kit.testing import RefusingChannel

STALE = RefusingChannel(Denied("TOKEN_UNKNOWN"))


def test_caller_does_not_hear_that_the_token_of_this_service_is_unknown():
    columns = (Column("zone_id", ["5"]),)
    batch = Batch(Door.ENTITY_KEYS, ["5"], np.zeros(1, np.int64), columns=columns)

    with pytest.raises(Unavailable, match=r"SERVICE_UNAVAILABLE.*service=feature"):
        GrpcFeatureReader(STALE).read(["zone:a"], batch, prediction_ids=["p"], timeout_s=1.0)


def test_artifact_is_away_while_the_registry_refuses_the_token():
    with pytest.raises(Unavailable, match=r"SERVICE_UNAVAILABLE.*service=registry"):
        list(GrpcArtifactSource(STALE).chunks("d" * 64))

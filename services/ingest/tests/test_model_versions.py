# SPDX-License-Identifier: Apache-2.0
"""What was trained on a stream is not known while the registry refuses the token."""

import pytest

from headrace.errors import Denied, Unavailable
from headrace_ingest.adapters.grpc_model_versions import GrpcModelVersions
from headrace_kit.testing import RefusingChannel


def test_who_erases_does_not_hear_that_the_token_of_this_service_is_unknown():
    versions = GrpcModelVersions(RefusingChannel(Denied("TOKEN_UNKNOWN")))

    with pytest.raises(Unavailable, match=r"SERVICE_UNAVAILABLE.*service=registry"):
        versions.trained_on(["delay"], {"flights": 1})

# SPDX-License-Identifier: Apache-2.0
"""A stream of requests whose caller is gone ends by a reason of ours."""

from __future__ import annotations

import time

import grpc
import pytest

from headrace.errors import Unavailable
from headrace_kit.grpc_streams import IncomingStream


class SilentContext:
    """Of a call that is over, whose callbacks did not run yet."""

    def add_callback(self, _):
        return True


def test_caller_that_is_gone_is_no_bug_before_the_call_is_told_to_be_over():
    def requests():
        yield b"first"
        raise grpc.RpcError

    stream = IncomingStream(requests(), SilentContext(), deadline_s=time.monotonic() + 10.0)

    assert b"first" == next(stream)
    for _ in range(2):  # the end stays the end
        with pytest.raises(Unavailable, match="STREAM_STALLED"):
            next(stream)

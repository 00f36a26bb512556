# SPDX-License-Identifier: Apache-2.0
"""What streams goes on ahead, within its bound, and in order."""

from __future__ import annotations

import threading

import pytest

from headrace.errors import Unavailable
from headrace_kit.pipelined import pipelined
from headrace_kit.testing import wait_until


def nothing() -> None:
    """No check."""


def test_all_are_begun_in_order():
    assert [n * 2 for n in range(50)] == list(
        pipelined(range(50), lambda n: n * 2, ahead_max=3, check=nothing)
    )


def test_some_are_begun_ahead_and_no_more():
    begun = []
    found = pipelined(range(10), begun.append, ahead_max=3, check=nothing)
    next(found)

    wait_until(lambda: begun == [0, 1, 2])
    next(found)
    wait_until(lambda: begun == [0, 1, 2, 3])
    found.close()


def test_error_comes_behind_what_was_begun_before():
    def begin(number):
        if number == 2:
            raise Unavailable("STREAM_STALLED")
        return number

    found = pipelined(range(5), begin, ahead_max=5, check=nothing)

    assert [0, 1] == [next(found), next(found)]
    with pytest.raises(Unavailable, match="STREAM_STALLED"):
        next(found)


def test_check_ends_the_wait_for_a_request_that_does_not_come():
    never = threading.Event()

    def requests():
        never.wait(10.0)
        yield 1

    def check():
        raise Unavailable("SERVICE_UNAVAILABLE")

    with pytest.raises(Unavailable, match="SERVICE_UNAVAILABLE"):
        next(pipelined(requests(), lambda n: n, ahead_max=1, check=check))
    never.set()


def test_closed_pipeline_begins_nothing_more():
    begun = []
    found = pipelined(range(10), begun.append, ahead_max=1, check=nothing)
    next(found)
    before = threading.active_count()

    found.close()
    wait_until(lambda: threading.active_count() < before)
    assert [0] == begun

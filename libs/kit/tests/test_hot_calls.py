# SPDX-License-Identifier: Apache-2.0
"""Calls of many threads that one thread answers together."""

import threading

import pytest
from prometheus_client import REGISTRY

from headrace.errors import Busy, HeadraceError, Invalid
from headrace_kit import hot_calls
from headrace_kit.auth import EVERYBODY
from headrace_kit.hot_calls import HotCall, Together
from headrace_kit.testing import wait_until


class Callers:
    """Those whose calls were handed over, and what they heard."""

    def __init__(self):
        self.heard = {}

    def call(self, key):
        return HotCall(
            b"",
            caller=EVERYBODY,
            arrived_s=0.0,
            deadline_s=60.0,
            reply=lambda call, answer: self.heard.setdefault(call.key, answer),
            key=key,
        )

    def wait_for(self, count):
        wait_until(lambda: len(self.heard) == count)


class Work:
    """A `take` that answers the sizes of its batches, each when it is let go."""

    def __init__(self):
        self.sizes, self.begun, self.go = [], threading.Semaphore(0), threading.Semaphore(0)

    def take(self, calls):
        self.sizes.append(len(calls))
        self.begun.release()
        assert self.go.acquire(timeout=10.0)
        for call in calls:
            call.answer(b"done")


@pytest.fixture
def callers():
    return Callers()


@pytest.fixture
def work():
    return Work()


@pytest.fixture
def gathering():
    made = []

    def make(take):
        made.append(Together("kit", take))
        made[-1].start()
        return made[-1]

    yield make
    for part in made:
        part.stop(10.0)


def test_calls_that_come_during_a_run_are_the_next_run(gathering, callers, work):
    take = gathering(work.take).take
    take([callers.call(0)])
    assert work.begun.acquire(timeout=10.0)

    for key in range(1, 6):
        take([callers.call(key)])
    work.go.release(2)

    callers.wait_for(6)
    assert [1, 5] == work.sizes


def test_run_holds_no_more_than_its_bound(gathering, callers, work, monkeypatch):
    monkeypatch.setattr(hot_calls, "TOGETHER_MAX", 2)
    take = gathering(work.take).take
    take([callers.call(0)])
    assert work.begun.acquire(timeout=10.0)

    take([callers.call(key) for key in range(1, 4)])
    work.go.release(3)

    callers.wait_for(4)
    assert [1, 2, 1] == work.sizes


def test_call_beyond_the_bound_of_those_that_wait_is_refused(gathering, callers, work, monkeypatch):
    monkeypatch.setattr(hot_calls, "WAITING_MAX", 1)
    take = gathering(work.take).take
    take([callers.call(0)])
    assert work.begun.acquire(timeout=10.0)

    take([callers.call(1), callers.call(2)])
    assert isinstance(callers.heard[2], Busy)
    work.go.release(2)
    callers.wait_for(3)


def test_what_a_run_raises_is_the_answer_of_its_calls_alone(gathering, callers):
    def fail_first(calls):
        for call in calls:
            if call.key == 0:
                raise Invalid("BAD_REQUEST")
            call.answer(b"done")

    take = gathering(fail_first).take
    take([callers.call(0)])
    callers.wait_for(1)
    take([callers.call(1)])
    callers.wait_for(2)

    assert isinstance(callers.heard[0], HeadraceError)
    assert b"done" == callers.heard[1]


def test_stop_answers_what_waits_and_ends_the_thread(gathering, callers, work):
    part = gathering(work.take)
    part.take([callers.call(0)])
    assert work.begun.acquire(timeout=10.0)
    part.take([callers.call(1)])

    part.stop(0.0)
    work.go.release(2)

    callers.wait_for(2)
    wait_until(lambda: not part._thread.running)
    assert part.failed() is None


def test_calls_that_wait_are_told_as_a_metric(gathering, callers, work):
    part = gathering(work.take)
    part.take([callers.call(0)])
    assert work.begun.acquire(timeout=10.0)

    part.take([callers.call(1), callers.call(2)])

    assert 2.0 == REGISTRY.get_sample_value("headrace_kit_calls_waiting_count")
    work.go.release(2)
    callers.wait_for(3)


def test_call_that_is_cancelled_gives_back_its_place(callers):
    freed, call = [], callers.call(0)
    call.free = lambda: freed.append(call.cancelled)

    call.cancel()

    assert [True] == freed


def test_call_that_was_answered_is_not_cancelled_by_its_end(callers):
    call = callers.call(0)
    call.answer(b"answer")

    call.cancel()

    assert not call.cancelled

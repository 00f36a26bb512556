# SPDX-License-Identifier: Apache-2.0
"""Threads that work for a grpcio server."""

import gc
import os
import threading
import weakref

import pytest

from headrace_kit.call_pool import CallPool
from headrace_kit.testing import wait_until

WAIT_S = 60.0


@pytest.fixture
def make_pool():
    made = []

    def make(threads, *, patient_threads=False):
        made.append(CallPool(threads, patient_threads=patient_threads))
        return made[-1]

    yield make
    for pool in made:
        pool.shutdown(cancel_futures=True)


class Gate:
    """A handler that waits until it is opened."""

    def __init__(self):
        self.names, self._opened = [], threading.Event()

    def __call__(self):
        self.names.append(threading.current_thread().name)
        assert self._opened.wait(WAIT_S)

    def open(self):
        self._opened.set()


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.open()


def test_as_many_at_once_as_it_has_threads(make_pool, gate):
    pool = make_pool(2)
    for _ in range(3):
        pool.submit(gate)
    wait_until(lambda: len(gate.names) == 2)

    assert {"grpc_0", "grpc_1"} == set(gate.names)
    gate.open()
    wait_until(lambda: len(gate.names) == 3)


def test_arguments_are_handed_on(make_pool):
    seen, done = [], threading.Event()

    def handler(*args, **kwargs):
        seen.append((args, kwargs))

    make_pool(1).submit(handler, 1, "a", key=2).add_done_callback(lambda _: done.set())

    assert done.wait(WAIT_S)
    assert [((1, "a"), {"key": 2})] == seen


def test_end_is_told_once_whoever_is_first(make_pool):
    pool, told = make_pool(4), []
    for number in range(2_000):  # some are over before they are asked, some after
        pool.submit(int).add_done_callback(lambda _, number=number: told.append(number))
    wait_until(lambda: len(told) >= 2_000)

    assert list(range(2_000)) == sorted(told)


def test_end_is_told_of_what_is_long_over(make_pool):
    pool, over, told = make_pool(1), threading.Event(), []
    first = pool.submit(int)
    pool.submit(over.set)
    assert over.wait(WAIT_S)

    first.add_done_callback(told.append)

    assert [first] == told


def test_handler_that_fails_takes_no_thread_with_it(make_pool):
    pool, told = make_pool(1), []

    def failing():
        raise KeyError("a bug")

    for _ in range(2):
        pool.submit(failing).add_done_callback(told.append)

    wait_until(lambda: len(told) == 2)


def test_idle_thread_keeps_nothing_of_its_last_call(make_pool):
    class Request:
        pass

    request, done = Request(), threading.Event()
    kept = weakref.ref(request)
    make_pool(1).submit(id, request).add_done_callback(lambda _: done.set())
    del request

    assert done.wait(WAIT_S)
    wait_until(lambda: gc.collect() is not None and kept() is None)


def test_shutdown_leaves_out_what_has_not_begun(make_pool, gate):
    pool, begun = make_pool(1), []
    pool.submit(gate)
    wait_until(lambda: gate.names)
    pool.submit(begun.append, 1)

    pool.shutdown(wait=False, cancel_futures=True)
    gate.open()
    pool.shutdown()

    assert [] == begun


def test_shutdown_waits_for_what_waits(make_pool):
    pool, done = make_pool(1), []
    for number in range(100):
        pool.submit(done.append, number)

    pool.shutdown()

    assert list(range(100)) == done


@pytest.mark.parametrize("patient", [False, True])
def test_patient_threads_take_the_core_from_nobody(make_pool, patient):
    pool, seen = make_pool(1, patient_threads=patient), []
    pool.submit(lambda: seen.append(os.sched_getscheduler(0)))
    pool.shutdown()

    assert [os.SCHED_BATCH if patient else os.SCHED_OTHER] == seen

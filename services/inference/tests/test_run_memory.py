# SPDX-License-Identifier: Apache-2.0
"""Runs side by side take no more memory together than there is for them."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from headrace.errors import Busy
from headrace_inference.adapters import run_memory
from headrace_inference.adapters.run_memory import SHARES, SMALL, RunMemory

FULL = int(SHARES)


class Held:
    """Runs that go on until they are let go, as many of them as take all there is."""

    def __init__(self, memory):
        self.memory, self.begun, self.let_go = memory, threading.Semaphore(0), threading.Event()
        self.pool = ThreadPoolExecutor(FULL + 1)
        self.running = [self.start() for _ in range(FULL)]
        assert all(self.begun.acquire(timeout=10.0) for _ in range(FULL))

    def start(self):
        return self.pool.submit(self.memory.run, 1.0, self.work)

    def work(self):
        self.begun.release()
        return self.let_go.wait(10.0)


@pytest.fixture
def held():
    made = Held(RunMemory())
    yield made
    made.let_go.set()
    made.pool.shutdown()


def test_run_there_is_no_memory_for_is_refused_and_small_ones_go_on(held, monkeypatch):
    monkeypatch.setattr(run_memory, "WAIT_S_MAX", 0.01)

    with pytest.raises(Busy, match="QUEUE_FULL"):
        held.memory.run(2 * SMALL, held.work)

    assert "small" == held.memory.run(SMALL, lambda: "small")
    assert not any(each.done() for each in held.running)


def test_run_waits_for_memory_of_one_that_ends(held):
    waiting = held.start()
    held.let_go.set()

    assert all(each.result(10.0) for each in [*held.running, waiting])


def test_run_that_fails_gives_its_memory_back():
    memory = RunMemory()
    for _ in range(2 * FULL):
        with pytest.raises(ZeroDivisionError):
            memory.run(1.0, lambda: 1 / 0)


def test_run_of_more_than_a_share_is_not_refused_for_that():
    assert "row" == RunMemory().run(100.0, lambda: "row")

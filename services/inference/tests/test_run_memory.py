# SPDX-License-Identifier: Apache-2.0
"""Runs side by side take no more memory together than there is for them."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from headrace.errors import Busy
from headrace_inference.adapters import run_memory
from headrace_inference.adapters.run_memory import SHARES, SMALL, RunMemory
from headrace_inference.domain.serving import Ending
from headrace_kit.testing import wait_until

FULL = int(SHARES)


class Held:
    """Runs that go on until they are let go, as many of them as take all there is."""

    def __init__(self, memory):
        self.memory, self.begun, self.let_go = memory, threading.Semaphore(0), threading.Event()
        self.pool = ThreadPoolExecutor(FULL + 1)
        self.running = [self.start() for _ in range(FULL)]
        assert all(self.begun.acquire(timeout=10.0) for _ in range(FULL))

    def start(self):
        return self.pool.submit(self.memory.run, 1.0, self.work, Ending())

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
        held.memory.run(2 * SMALL, held.work, Ending())

    assert "small" == held.memory.run(SMALL, lambda: "small", Ending())
    assert not any(each.done() for each in held.running)


def test_run_waits_for_memory_of_one_that_ends(held):
    waiting = held.start()
    held.let_go.set()

    assert all(each.result(10.0) for each in [*held.running, waiting])


def test_run_that_nobody_could_end_does_not_wait(held, monkeypatch):
    """The door's own, and a shadow's beside an answer that is there."""
    monkeypatch.setattr(run_memory, "WAIT_S_MAX", 600.0)

    with pytest.raises(Busy, match="QUEUE_FULL"):
        held.memory.run(1.0, held.work, None)


def test_run_that_nobody_waits_for_any_more_leaves_the_line(held, monkeypatch):
    monkeypatch.setattr(run_memory, "WAIT_S_MAX", 600.0)
    ending = Ending()
    waiting = held.pool.submit(held.memory.run, 1.0, held.work, ending)
    wait_until(lambda: held.memory.waiting == 1)

    ending.ask()

    with pytest.raises(Busy, match="QUEUE_FULL"):
        waiting.result(10.0)


def test_large_run_is_not_passed_by_those_behind_it(monkeypatch):
    monkeypatch.setattr(run_memory, "WAIT_S_MAX", 600.0)
    memory, order, let_go = RunMemory(), [], threading.Event()
    begun = threading.Semaphore(0)

    def half():
        begun.release()
        return let_go.wait(10.0)

    with ThreadPoolExecutor(2 * FULL + 1) as pool:
        halves = [pool.submit(memory.run, 0.5, half, Ending()) for _ in range(2 * FULL - 1)]
        assert all(begun.acquire(timeout=10.0) for _ in halves)
        large = pool.submit(memory.run, 1.0, lambda: order.append("large"), Ending())
        wait_until(lambda: memory.waiting == 1)
        late = pool.submit(memory.run, 0.5, lambda: order.append("late"), Ending())
        wait_until(lambda: memory.waiting == 2)
        let_go.set()
        for each in (*halves, large, late):
            each.result(10.0)

    assert ["large", "late"] == order


def test_run_that_fails_gives_its_memory_back():
    memory = RunMemory()
    for _ in range(2 * FULL):
        with pytest.raises(ZeroDivisionError):
            memory.run(1.0, lambda: 1 / 0, None)


def test_run_of_more_than_a_share_is_not_refused_for_that():
    assert "row" == RunMemory().run(100.0, lambda: "row", None)

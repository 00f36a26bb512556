# SPDX-License-Identifier: Apache-2.0
import threading

import pytest

from headrace_kit import part_thread
from headrace_kit.part_thread import LookingPart, PartThread
from headrace_kit.testing import wait_until


@pytest.fixture
def free():
    event = threading.Event()
    yield event
    event.set()


def test_tick_grows_old_while_the_function_hangs_and_not_when_it_is_over(free):
    thread = PartThread("probe", lambda: free.wait(10.0))
    assert 0.0 == thread.tick_age_s()

    thread.start()
    wait_until(lambda: thread.tick_age_s() > 0.1)
    free.set()
    thread.join(5.0)
    assert 0.0 == thread.tick_age_s()


def test_function_that_ticks_stays_young(free):
    ages = []

    def go_round():
        while not free.wait(0.02):
            thread.tick()

    thread = PartThread("probe", go_round)
    thread.start()
    wait_until(lambda: ages.append(thread.tick_age_s()) or len(ages) > 50)
    assert max(ages) < 2.0


class Looking(LookingPart):
    """Counts its looks."""

    def __init__(self, interval_s):
        super().__init__("probe", interval_s=interval_s, waits="probe_waits")
        self.looks = 0

    def look(self):
        self.looks += 1


def test_part_that_rests_for_long_is_no_stalled_one(monkeypatch):
    monkeypatch.setattr(part_thread, "TICK_INTERVAL_S", 0.01)
    ticks = []
    monkeypatch.setattr(PartThread, "tick", lambda thread: ticks.append(1))
    part = Looking(interval_s=3_600.0)

    part.start()
    wait_until(lambda: len(ticks) > 10)
    part.stop(5.0)
    assert 0 == part.looks


def test_part_looks_again_after_each_rest():
    part = Looking(interval_s=0.01)

    part.start()
    wait_until(lambda: part.looks > 3)
    part.stop(5.0)
    assert part.failed() is None

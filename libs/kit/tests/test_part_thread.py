# SPDX-License-Identifier: Apache-2.0
import threading

import pytest

from headrace_kit.part_thread import PartThread
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

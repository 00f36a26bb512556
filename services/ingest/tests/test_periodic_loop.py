# SPDX-License-Identifier: Apache-2.0
"""A round may be long, as long as its steps are short."""

from __future__ import annotations

import threading
from types import SimpleNamespace

from structlog.testing import capture_logs

from headrace.errors import Busy
from headrace_ingest.adapters.periodic_loop import PeriodicLoop
from headrace_kit import part_thread

WAIT_S = 30.0


def test_each_step_of_a_round_is_a_sign_of_life(monkeypatch):
    now_s, ages_s, over = [1_000.0], [], threading.Event()
    monkeypatch.setattr(part_thread, "time", SimpleNamespace(monotonic=lambda: now_s[0]))

    def task(_):
        for _ in range(3):
            now_s[0] += 200.0
            ages_s.append(loop.tick_age_s())
            yield
        over.set()

    loop = PeriodicLoop("test", task, interval_s=60.0)
    loop.start()
    assert over.wait(WAIT_S)
    loop.stop(WAIT_S)

    assert [200.0, 200.0, 200.0] == ages_s


def test_rounds_that_fail_alike_are_told_once_and_that_they_go_on():
    outcomes = iter([1, 1, 1, 2, 2, None, None, 1])
    over = threading.Event()

    def task(_):
        works_max = next(outcomes, over)
        if works_max is over:
            over.set()
        elif works_max:
            raise Busy("QUEUE_FULL", works_max=works_max)
        yield

    with capture_logs() as logged:
        loop = PeriodicLoop("test", task, interval_s=0.001)
        loop.start()
        assert over.wait(WAIT_S)
        loop.stop(WAIT_S)

    told = [each["event"] for each in logged if each.get("task") == "test"]
    assert ["round_failed", "round_failed", "rounds_go_on", "round_failed"] == told[:4]


def test_round_ends_between_two_steps_when_the_loop_is_stopped():
    begun, ended = threading.Event(), threading.Event()

    def task(_):
        try:
            while True:
                begun.set()
                yield
        finally:
            ended.set()

    loop = PeriodicLoop("test", task, interval_s=60.0)
    loop.start()
    assert begun.wait(WAIT_S)
    loop.stop(WAIT_S)

    assert ended.is_set()

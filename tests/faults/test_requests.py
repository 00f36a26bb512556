# SPDX-License-Identifier: Apache-2.0
"""kill -9 of inference while it answers requests over Kafka: each has one answer (N6, N7)."""

from __future__ import annotations

import signal

import psutil
import pytest
from tests.faults.asker import Asker

from headrace.local.process import Child
from headrace_kit.testing import wait_until

pytestmark = pytest.mark.faults


@pytest.fixture
def asker(kafka_server, tmp_path) -> Asker:
    made = Asker(kafka_server, tmp_path)
    made.serve()
    return made


@pytest.fixture
def start(asker):
    """Starts workers that are ended with the test."""
    started: list[Child] = []

    def begin(name: str = "one", *, fail: str = "", processes: int = 1) -> Child:
        started.append(asker.worker(name, fail=fail, PROCESSES=str(processes)))
        return started[-1]

    yield begin
    for child in started:
        child.stop()


@pytest.mark.parametrize("step", ["inference.batch.computed", "inference.batch.delivered"])
def test_worker_killed_at_a_step_leaves_each_request_one_answer(step, asker, start):
    worker = start(fail=f"{step}:3:kill")
    for _ in range(5):
        asker.ask(200)
        wait_until(lambda: asker.all_answered() or worker.died() is not None)
    assert -signal.SIGKILL == wait_until(worker.died)

    start()
    asker.await_no_lag()
    assert {} == asker.wrong()


def test_worker_killed_at_any_moment_hands_over_to_another(asker, start):
    one = start("one")
    start("two")
    for _ in range(10):
        asker.ask(500)
    one.kill()
    asker.ask(500)

    asker.await_no_lag()
    assert {} == asker.wrong()


def test_process_killed_beside_another_leaves_each_request_one_answer(asker, start):
    parent = start(processes=2)
    for _ in range(5):
        asker.ask(500)
    wait_until(asker.some_answered)
    one, _ = psutil.Process(parent.pid).children()
    one.kill()
    for _ in range(5):
        asker.ask(500)

    asker.await_no_lag()
    assert {} == asker.wrong()
    wait_until(lambda: len(psutil.Process(parent.pid).children()) == 2)
    assert parent.died() is None


@pytest.mark.parametrize("count", [100, 1_000], ids=["shorter", "longer"])
def test_requests_of_a_topic_that_is_made_again_have_each_one_answer(count, asker, start):
    start()
    asker.ask(500)
    asker.await_no_lag()

    asker.make_again()
    asker.ask(count)
    asker.await_no_lag()
    assert {} == asker.wrong()


def test_requests_wait_for_what_is_not_served_yet(asker, start):
    asker.ask(50)
    start()
    asker.await_no_lag()

    assert {} == asker.wrong()


def test_endpoint_whose_answers_have_no_topic_keeps_no_other_from_its_answers(asker, start):
    """Its requests wait until the topic is there."""
    other = Asker(asker.bootstrap, asker.folder)
    other.serve()
    start()
    for each in (asker, other):
        each.ask(20)
        each.await_no_lag()
    asker.forget_answers()
    asker.ask(20)
    for _ in range(3):
        other.ask(100)
        other.await_no_lag()
    assert {} == other.wrong()

    asker.make_answers()
    asker.await_no_lag()
    assert {} == asker.wrong()

# SPDX-License-Identifier: Apache-2.0
"""Workers that die, hang or cannot start, and what their parent makes of it."""

import os
import signal
from contextlib import suppress

import pytest

from headrace_kit import backoff, workers
from headrace_kit.lifecycle import PartEnded, run_service
from headrace_kit.testing import wait_until
from headrace_kit.workers import Workers


class FakeWorker:
    """Ready at once; ends as the test says, and when it is asked to unless it is `deaf`."""

    def __init__(self, number, *, deaf=False):
        self.number, self.deaf = number, deaf
        self.code, self.says = None, True
        self.told = []

    def exit_code(self):
        return self.code

    def ready(self):
        return self.says

    def metrics(self):
        return f"of {self.number}"

    def ask_to_stop(self):
        self.told.append("stop")
        if not self.deaf and self.code is None:
            self.code = 0

    def kill(self):
        self.told.append("kill")
        self.code = -signal.SIGKILL


class Fleet:
    """Starts workers, and keeps them in the order of their starts."""

    def __init__(self, prepare=lambda worker: None):
        self.started, self.prepare = [], prepare

    def start(self, number):
        worker = FakeWorker(number)
        self.prepare(worker)
        self.started.append(worker)
        return worker

    def last(self, number):
        return [worker for worker in self.started if worker.number == number][-1]

    def lives(self, number):
        return len([worker for worker in self.started if worker.number == number])


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(workers, "LOOK_INTERVAL_S", 0.002)
    monkeypatch.setattr(workers, "ASK_INTERVAL_S", 0.0)
    monkeypatch.setattr(backoff, "FIRST_S", 0.001)
    monkeypatch.setattr(backoff, "BACKOFF_S_MAX", 0.004)


@pytest.fixture
def run():
    """Starts the workers of a fleet, and stops them with the test."""
    begun = []

    def begin(fleet, count=2, grace_s=5.0):
        made = Workers("test", count, start_worker=fleet.start, grace_s=grace_s)
        made.start()
        begun.append(made)
        return made

    yield begin
    for made in begun:
        with suppress(PartEnded):
            made.stop(5.0)


def test_all_are_ready_when_each_is(run):
    fleet = Fleet(lambda worker: setattr(worker, "says", worker.number == 1))
    made = run(fleet)
    wait_until(lambda: {"1", "2"} == set(made.metrics()))
    assert not made.ready()

    fleet.last(2).says = True

    wait_until(made.ready)


def test_one_that_is_killed_is_started_again_and_the_others_are_left_alone(run):
    fleet = Fleet()
    made = run(fleet, count=3)
    wait_until(made.ready)

    fleet.last(2).code = -signal.SIGKILL
    wait_until(lambda: fleet.lives(2) == 2)

    wait_until(made.ready)
    assert made.failed() is None
    assert [1, 1] == [fleet.lives(1), fleet.lives(3)]
    assert [] == fleet.last(1).told + fleet.last(3).told


def test_service_is_not_ready_while_one_is_away(run):
    fleet = Fleet(lambda worker: setattr(worker, "says", fleet.lives(worker.number) == 0))
    made = run(fleet)
    wait_until(made.ready)

    fleet.last(1).code = 70
    wait_until(lambda: fleet.lives(1) == 2)

    assert not made.ready()


@pytest.mark.parametrize(("code", "expected"), [(69, 69), (78, 78), (70, 70), (1, 70)])
def test_one_that_ends_before_it_was_ready_ends_all_with_its_code(run, code, expected):
    def prepare(worker):
        worker.says = False
        worker.code = code if worker.number == 2 else None

    fleet = Fleet(prepare)
    made = run(fleet)

    assert expected == wait_until(made.failed).exit_code
    made.stop(5.0)
    assert (1, ["stop"]) == (fleet.lives(2), fleet.last(1).told)


def test_one_that_is_killed_before_it_was_ready_is_started_again(run):
    fleet = Fleet(lambda worker: setattr(worker, "code", None if fleet.lives(1) else -9))
    made = run(fleet, count=1)

    wait_until(made.ready)
    assert 2 == fleet.lives(1)


def test_wrong_setting_at_a_restart_ends_all(run):
    fleet = Fleet(lambda worker: setattr(worker, "code", 78 if fleet.lives(1) else None))
    made = run(fleet, count=1)
    wait_until(made.ready)

    fleet.last(1).code = 70

    assert 78 == wait_until(made.failed).exit_code
    assert 2 == fleet.lives(1)


def test_one_that_ends_again_and_again_ends_all_with_70(run):
    fleet = Fleet(lambda worker: setattr(worker, "code", -11))
    made = run(fleet, count=1)

    assert 70 == wait_until(made.failed).exit_code
    assert workers.ENDS_MAX + 1 == fleet.lives(1)


def test_one_whose_needs_are_away_is_started_until_they_are_back(run):
    fleet = Fleet(lambda worker: setattr(worker, "code", 69 if 0 < fleet.lives(1) < 20 else None))
    made = run(fleet, count=1)
    wait_until(made.ready)

    fleet.last(1).code = -signal.SIGKILL

    wait_until(lambda: fleet.lives(1) == 21 and made.ready())
    assert made.failed() is None


def test_one_that_was_healthy_between_its_ends_is_started_again(run, monkeypatch):
    monkeypatch.setattr(workers, "HEALTHY_S", 0.0)
    fleet = Fleet()
    made = run(fleet, count=1)

    for life in range(1, workers.ENDS_MAX + 5):
        wait_until(lambda life=life: fleet.lives(1) == life and made.ready())
        fleet.last(1).code = -signal.SIGKILL

    wait_until(made.ready)
    assert made.failed() is None


def test_one_that_says_nothing_for_long_is_killed_and_started_again(run, monkeypatch):
    monkeypatch.setattr(workers, "SILENCE_S_MAX", 0.02)
    fleet = Fleet()
    made = run(fleet)
    wait_until(made.ready)

    hanging = fleet.last(1)
    hanging.says = None
    wait_until(lambda: fleet.lives(1) == 2)

    assert ["kill"] == hanging.told
    wait_until(made.ready)
    assert 1 == fleet.lives(2)


def test_metrics_are_those_of_all_that_answer(run):
    fleet = Fleet()
    made = run(fleet)
    wait_until(made.ready)

    fleet.last(1).says = None

    wait_until(lambda: made.metrics() == {"2": "of 2"})


def test_stop_asks_all_and_waits_for_them(run):
    fleet = Fleet()
    made = run(fleet)
    wait_until(made.ready)

    made.stop(5.0)

    assert [["stop"], ["stop"]] == [worker.told for worker in fleet.started]


def test_one_that_does_not_end_in_time_is_killed_and_told(run):
    fleet = Fleet(lambda worker: setattr(worker, "deaf", worker.number == 2))
    made = run(fleet, grace_s=0.02)
    wait_until(made.ready)

    with pytest.raises(PartEnded, match="2: -9"):
        made.stop(5.0)
    assert [["stop"], ["stop", "kill"]] == [worker.told for worker in fleet.started]


def test_one_that_was_stopped_before_it_could_hear_it_ended_well(run):
    fleet = Fleet(lambda worker: setattr(worker, "deaf", True))
    made = run(fleet, count=1)
    wait_until(made.ready)

    fleet.last(1).ask_to_stop = lambda: setattr(fleet.last(1), "code", -signal.SIGTERM)

    made.stop(5.0)


class Admin:
    """Stands for the HTTP door."""

    def __init__(self, ready):
        self.ready = ready

    def start(self): ...

    def open(self, live): ...

    def drain(self): ...

    def stop(self, timeout_s): ...

    def failed(self): ...


def test_service_ends_with_the_code_of_a_worker_that_could_not_start():
    fleet = Fleet(lambda worker: setattr(worker, "code", 69))
    made = Workers("test", 2, start_worker=fleet.start, grace_s=5.0)

    assert 69 == run_service("test", [made], admin=Admin(made.ready))


@pytest.mark.parametrize(("deaf", "expected"), [(False, 0), (True, 70)])
def test_service_that_is_told_to_stop_ends_by_how_its_workers_ended(deaf, expected):
    fleet = Fleet(lambda worker: setattr(worker, "deaf", deaf))
    made = Workers("test", 2, start_worker=fleet.start, grace_s=0.02)

    def stop(ready):
        if ready:
            os.kill(os.getpid(), signal.SIGTERM)

    assert expected == run_service("test", [made], admin=Admin(made.ready), on_ready=stop)
    assert all("stop" in worker.told for worker in fleet.started)

# SPDX-License-Identifier: Apache-2.0
import faulthandler
import gc
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from headrace.errors import Unavailable
from headrace_kit import lifecycle
from headrace_kit.lifecycle import run_service
from headrace_kit.listening import check_free


class Probe:
    """A part that notes what is done to it, and may fail at each step."""

    def __init__(self, name, events, *, on_start=None, stop_error=None):
        self.name, self.events = name, events
        self.on_start, self.stop_error = on_start, stop_error
        self.failure = None

    def start(self):
        self.events.append(f"start {self.name}")
        if self.on_start is not None:
            self.on_start()

    def stop(self, timeout_s):
        self.events.append(f"stop {self.name}")
        if self.stop_error is not None:
            raise self.stop_error

    def failed(self):
        return self.failure


class Admin(Probe):
    """Stands for the HTTP door: ready from its opening until it drains."""

    opened = False

    def ready(self):
        return self.opened

    def open(self, live):
        self.opened, self.live = True, live
        self.events.append("open")

    def drain(self):
        self.opened = False
        self.events.append("drain")


class Loop(Probe):
    """A part that goes round."""

    age_s = 0.0

    def tick_age_s(self):
        return self.age_s


@pytest.fixture
def events():
    return []


@pytest.fixture
def admin(events):
    return Admin("admin", events)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def raising(error):
    def fail():
        raise error

    return fail


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_the_parts_in_reverse_and_the_code_is_0(events, admin, number):
    def on_ready(ready):
        events.append(f"ready {ready}")
        if ready:
            os.kill(os.getpid(), number)

    parts = [Probe("publisher", events), Probe("loop", events)]

    assert 0 == run_service("probe", parts, admin=admin, on_ready=on_ready)
    assert [
        *("start admin", "start publisher", "start loop", "open", "ready True"),
        *("drain", "ready False", "stop loop", "stop publisher", "stop admin"),
    ] == events


def test_signal_while_starting_stops_what_was_begun(events, admin):
    parts = [Probe("slow", events, on_start=terminate), Probe("never", events)]

    assert 0 == run_service("probe", parts, admin=admin)
    assert ["start admin", "start slow", "drain", "stop slow", "stop admin"] == events


def test_failed_part_ends_the_service_with_70(events, admin):
    part = Probe("loop", events)
    part.failure = KeyError("bug")

    assert 70 == run_service("probe", [part], admin=admin)
    assert "stop loop" in events


class Ended(BaseException):
    """Stands for the end of the process."""


def test_part_that_makes_no_progress_is_not_live_and_ends_the_process_with_70(
    events, admin, monkeypatch
):
    loop, codes = Loop("loop", events), []

    def end(code):
        codes.append((code, admin.live()))
        raise Ended

    def on_ready(ready):
        events.append(admin.live())
        loop.age_s = lifecycle.TICK_AGE_S_MAX + 1.0

    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(Ended):
        run_service("probe", [Probe("publisher", events), loop], admin=admin, on_ready=on_ready)
    assert [(70, False)] == codes
    assert True in events


# `pause` by PyDLL waits for good and holds the interpreter's lock, as a library's deadlock does.
STANDSTILL = """
import ctypes
from headrace_kit import lifecycle
from headrace_kit.admin_http import AdminServer
lifecycle.STANDSTILL_S_MAX = 1.0
def stand_still(ready):
    ctypes.PyDLL(None).pause()
admin = AdminServer("127.0.0.1", 0, lambda: True)
lifecycle.run_service("probe", [], admin=admin, on_ready=stand_still)
"""


def test_process_whose_interpreter_stands_still_ends_with_1_and_says_where():
    ended = subprocess.run(
        [sys.executable, "-c", STANDSTILL],
        timeout=60,
        check=False,
        capture_output=True,
        text=True,
    )

    assert 1 == ended.returncode
    assert "in stand_still" in ended.stderr


def test_watch_for_a_standstill_begins_anew_each_round_and_ends_with_the_rounds(
    events, admin, monkeypatch
):
    def begin(after_s, **_):
        events.append(after_s)
        if events.count(after_s) == 2:
            terminate()

    monkeypatch.setattr(lifecycle, "STANDSTILL_ROUNDS", 1)
    monkeypatch.setattr(faulthandler, "dump_traceback_later", begin)
    monkeypatch.setattr(
        faulthandler, "cancel_dump_traceback_later", lambda: events.append("cancel")
    )

    assert 0 == run_service("probe", [], admin=admin)
    limit_s = lifecycle.STANDSTILL_S_MAX
    assert ["open", limit_s, limit_s, "cancel", "drain"] == events[1:-1]
    assert limit_s > lifecycle.TICK_AGE_S_MAX


def test_missing_kafka_is_one_line_that_says_what_to_do(events, admin, capsys):
    missing = Unavailable("BROKER_UNAVAILABLE", bootstrap="127.0.0.1:9092")
    parts = [Probe("loop", events, on_start=raising(missing)), Probe("never", events)]

    assert 69 == run_service("probe", parts, admin=admin)
    assert capsys.readouterr().err.splitlines() == [
        "Kafka does not answer at 127.0.0.1:9092. Start it with `headrace up` or set "
        "PROBE_KAFKA_BOOTSTRAP."
    ]
    assert "start never" not in events


def test_taken_port_is_one_line_that_says_what_to_do(events, admin, capsys):
    taken = Unavailable("PORT_TAKEN", host="127.0.0.1", port=7101)

    assert 69 == run_service(
        "probe", [Probe("server", events, on_start=raising(taken))], admin=admin
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert "PORT_TAKEN" in line
    assert "7101" in line


def test_taken_port_of_a_later_part_is_told_before_any_other_starts(events, admin, capsys):
    class Server(Probe):
        def check_port(self):
            check_free("127.0.0.1", port)

    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        code = run_service("probe", [Probe("first", events), Server("last", events)], admin=admin)

    assert (69, []) == (code, [event for event in events if "start" in event])
    assert f"port={port}" in capsys.readouterr().err


def test_bug_while_starting_is_raised_after_all_has_stopped(events, admin):
    parts = [Probe("loop", events, on_start=raising(KeyError("bug")))]

    with pytest.raises(KeyError):
        run_service("probe", parts, admin=admin)
    assert ["stop loop", "stop admin"] == events[-2:]


def test_part_that_cannot_end_well_makes_the_code_70_and_the_others_still_stop(events, admin):
    left = Unavailable("DELIVERY_UNKNOWN", left=3)
    parts = [Probe("first", events), Probe("publisher", events, stop_error=left)]

    assert 70 == run_service("probe", parts, admin=admin, on_ready=lambda ready: terminate())
    assert ["stop publisher", "stop first", "stop admin"] == events[-3:]


def test_signal_handlers_are_put_back(events, admin):
    before = signal.getsignal(signal.SIGTERM)

    threading.Timer(0.1, terminate).start()
    run_service("probe", [], admin=admin)

    assert before is signal.getsignal(signal.SIGTERM)


@pytest.fixture(autouse=True)
def collector():
    """Left as it was: a service changes it for its whole process."""
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_search_for_cycles_passes_over_what_a_started_service_holds(events, admin):
    early, searched = ["made before it has started"], {}

    def look(ready):
        if ready:
            late = ["made afterwards"]
            ids = {id(each) for each in gc.get_objects()}
            searched.update(early=id(early) in ids, late=id(late) in ids)
            terminate()

    assert 0 == run_service("probe", [Probe("loop", events)], admin=admin, on_ready=look)
    assert {"early": False, "late": True} == searched

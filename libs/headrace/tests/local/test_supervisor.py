# SPDX-License-Identifier: Apache-2.0
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from headrace.errors import Conflict, Unavailable
from headrace.local import supervisor as supervisor_module
from headrace.local.control import clear_leftovers, start_detached, stop
from headrace.local.process import HttpReady
from headrace.local.state import (
    FAILED,
    READY,
    STOPPED,
    UNREADY,
    DataFolder,
    read_state,
    rss_mb_by_service,
    running,
)
from headrace.local.supervisor import RestartPolicy, Stage, Supervisor, bound_log

from .supervised import a_process

DEADLINE_S = 20.0
SCRIPT = Path(__file__).with_name("supervised.py")
DIES = "import sys; print('no such setting'); sys.exit(3)"
DIES_WHEN_TOLD = """
import pathlib, sys, time
name, folder = sys.argv[1], pathlib.Path(sys.argv[2])
(folder / f"{name}.ready").touch()
told = folder / "die"
while not (told.exists() and told.read_text()):  # it is there before anything is in it
    time.sleep(0.02)
sys.exit(int(told.read_text()))
"""
DEAF = """
import pathlib, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
(pathlib.Path(sys.argv[2]) / (sys.argv[1] + ".ready")).touch()
while True:
    signal.pause()
"""


def wait_until(condition):
    give_up = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < give_up, "it did not come true in time"
    return value


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pid_of(name, folder):
    return int((folder / f"{name}.pid").read_text())


def all_pids(folder):
    return [pid_of(name, folder) for name in ("first", "second", "grandchild")]


def ready(folder, than=lambda state: True):
    state = read_state(DataFolder(folder / "data"))
    return state if state and state.ready and than(state) else None


@pytest.fixture
def start(tmp_path):
    """Starts the supervisor of `supervised.py`; every process of the test is gone afterwards."""
    started = []

    def start_one():
        started.append(subprocess.Popen([sys.executable, SCRIPT, tmp_path]))
        wait_until(lambda: ready(tmp_path, lambda state: state.pid == started[-1].pid))
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.wait()
    stop(DataFolder(tmp_path / "data"), deadline_s=1)


def staged(processes):
    return processes if isinstance(processes, Stage) else Stage(processes)


@contextmanager
def supervising(folder, *stages, said=None, start_s_max=60.0, **given):
    supervisor = Supervisor(
        lambda: [staged(processes) for processes in stages],
        DataFolder(folder / "data"),
        report=(said if said is not None else []).append,
        policy=RestartPolicy(**{"delay_min_s": 0.01, "delay_max_s": 0.05, **given}),
        start_s_max=start_s_max,
    )
    with supervisor.running():
        yield supervisor


def test_processes_stop_in_reverse_order_and_none_is_left_when_terminated(tmp_path, start):
    supervisor = start()
    first, second, _ = all_pids(tmp_path)
    supervisor.send_signal(signal.SIGTERM)

    assert 0 == supervisor.wait(DEADLINE_S)
    assert "first\nsecond\n" == (tmp_path / "starts").read_text()
    assert "second\nfirst\n" == (tmp_path / "ends").read_text()
    assert not alive(first)
    assert not alive(second)
    assert not running(DataFolder(tmp_path / "data"))


def test_interrupt_stops_all(tmp_path, start):
    supervisor = start()
    supervisor.send_signal(signal.SIGINT)

    assert 0 == supervisor.wait(DEADLINE_S)
    assert "second\nfirst\n" == (tmp_path / "ends").read_text()


def test_killed_process_is_started_again(tmp_path, start):
    start()
    killed = pid_of("second", tmp_path)
    os.kill(killed, signal.SIGKILL)
    state = wait_until(lambda: ready(tmp_path, lambda state: state.processes[1].restarts == 1))

    assert state.processes[1].pid != killed
    assert "ended by SIGKILL" == state.processes[1].last_end
    assert 0 == state.processes[0].restarts


def test_children_die_with_a_supervisor_that_is_killed(tmp_path, start):
    supervisor = start()
    first, second, _ = all_pids(tmp_path)
    supervisor.kill()
    supervisor.wait()

    wait_until(lambda: not alive(first) and not alive(second))


def test_next_start_clears_what_a_killed_supervisor_left_and_goes_on(tmp_path, start):
    supervisor = start()
    orphan = pid_of("grandchild", tmp_path)
    supervisor.kill()
    supervisor.wait()
    assert alive(orphan)

    start()
    assert not alive(orphan)
    assert alive(pid_of("second", tmp_path))


def test_stop_from_another_process_leaves_nothing(tmp_path, start):
    supervisor = start()
    folder = DataFolder(tmp_path / "data")
    pids = all_pids(tmp_path)

    assert stop(folder, deadline_s=DEADLINE_S)
    assert 0 == supervisor.wait(DEADLINE_S)
    assert [] == [pid for pid in pids if alive(pid)]
    assert {STOPPED} == {process.state for process in read_state(folder).processes}
    assert not stop(folder, deadline_s=DEADLINE_S)


def test_stop_kills_a_supervisor_that_hangs(tmp_path, start):
    supervisor = start()
    pids = all_pids(tmp_path)
    supervisor.send_signal(signal.SIGSTOP)

    assert stop(DataFolder(tmp_path / "data"), deadline_s=0.2)
    assert -signal.SIGKILL == supervisor.wait(DEADLINE_S)
    wait_until(lambda: not any(map(alive, pids)))


def test_second_supervisor_of_a_folder_is_refused(tmp_path, start):
    first = start()
    with pytest.raises(Conflict, match=f"ALREADY_RUNNING.*pid={first.pid}"), supervising(tmp_path):
        pass


def test_second_supervisor_of_a_folder_plans_nothing(tmp_path, start):
    start()
    planned = []
    second = Supervisor(
        lambda: planned.append("written") or [], DataFolder(tmp_path / "data"), report=print
    )
    with pytest.raises(Conflict, match="ALREADY_RUNNING"):
        second.run()
    assert [] == planned


def test_step_between_stages_sees_the_first_and_comes_before_the_second(tmp_path):
    seen = []
    first, second = a_process("first", tmp_path), a_process("second", tmp_path)
    step = Stage([first], then=lambda: seen.append((tmp_path / "starts").read_text()))
    with supervising(tmp_path, step, [second]):
        assert ["first\n"] == seen


def test_step_between_stages_that_fails_ends_the_start(tmp_path):
    def fail():
        raise Unavailable("BROKER_UNAVAILABLE")

    first, second = a_process("first", tmp_path), a_process("second", tmp_path)
    with (
        pytest.raises(Unavailable, match="BROKER_UNAVAILABLE"),
        supervising(tmp_path, Stage([first], then=fail), [second]),
    ):
        pass
    assert "first\n" == (tmp_path / "starts").read_text()
    assert "first\n" == (tmp_path / "ends").read_text()


def test_detached_supervisor_is_ready_when_its_start_returns(tmp_path):
    folder = DataFolder(tmp_path / "data")
    process = start_detached([sys.executable, SCRIPT, tmp_path], folder, deadline_s=DEADLINE_S)
    assert read_state(folder).ready
    assert process.pid == os.getsid(process.pid)
    assert stop(folder, deadline_s=DEADLINE_S)
    assert 0 == process.wait(DEADLINE_S)


def test_detached_start_tells_what_the_supervisor_says_meanwhile(tmp_path):
    folder, told = DataFolder(tmp_path / "data"), []
    command = [sys.executable, SCRIPT, tmp_path]
    process = start_detached(command, folder, deadline_s=DEADLINE_S, report=told.append)
    assert stop(folder, deadline_s=DEADLINE_S)
    process.wait(DEADLINE_S)

    ready = [line.partition(" after")[0] for line in told if ": ready" in line]
    assert ["first: ready", "second: ready"] == ready


def test_detached_start_leaves_the_error_to_its_end(tmp_path):
    told, words = [], "kafka: ready\nPORT_TAKEN: A port is in use.\n  port: 9092"
    command = [sys.executable, "-c", f"import sys; sys.exit({words!r})"]
    with pytest.raises(Unavailable, match="said=PORT_TAKEN"):
        start_detached(command, DataFolder(tmp_path), deadline_s=DEADLINE_S, report=told.append)

    assert ["kafka: ready"] == told


def test_process_that_is_waited_for_is_told_with_its_trouble(tmp_path, monkeypatch):
    """It becomes ready once that was heard."""
    monkeypatch.setattr(supervisor_module, "WAIT_TOLD_INTERVAL_S", 0.0)
    said, trouble = [], "RESTORING: the state comes back"
    line = f'{{"event": "follower_waits", "error": "{trouble}", "level": "warning"}}'
    code = f"import signal; print({line!r}, flush=True); signal.pause()"

    def heard(timeout_s):
        return any(trouble in each for each in said)

    with supervising(tmp_path, [a_process("slow", tmp_path, code, ready=heard)], said=said):
        pass

    [told] = [each for each in said if trouble in each][:1]
    assert told.startswith("slow: not ready yet, ")
    assert told.endswith(f"of 60 s: follower_waits: {trouble}")


def test_process_that_says_nothing_is_told_with_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor_module, "WAIT_TOLD_INTERVAL_S", 0.0)
    said = []
    mute = a_process("mute", tmp_path, "import signal; signal.pause()", ready=lambda _: bool(said))

    with supervising(tmp_path, [mute], said=said):
        assert said[0].endswith(f"see {tmp_path / 'data/logs/mute.log'}")


def test_detached_start_that_fails_says_what_it_said(tmp_path):
    command = [sys.executable, "-c", DIES]
    with pytest.raises(Unavailable, match=r"START_FAILED.*exit code 3.*no such setting"):
        start_detached(command, DataFolder(tmp_path), deadline_s=DEADLINE_S)


def test_start_fails_with_the_last_words_of_the_process(tmp_path):
    first, second, said = a_process("first", tmp_path), a_process("second", tmp_path, DIES), []
    with (
        pytest.raises(Unavailable, match=r"process=second.*exit code 3.*no such setting"),
        supervising(tmp_path, [first], [second], said=said),
    ):
        pass
    assert "first\n" == (tmp_path / "ends").read_text()
    assert not any("starts again" in line for line in said)


def test_start_fails_with_the_error_and_not_with_the_step_behind_it(tmp_path):
    code = """print('BAD_SETTING: no such'); print('{"event": "stopped"}'); raise SystemExit(78)"""
    with (
        pytest.raises(Unavailable, match=r"START_FAILED.*said=BAD_SETTING: no such"),
        supervising(tmp_path, [a_process("second", tmp_path, code)]),
    ):
        pass


def test_start_fails_when_a_process_is_not_ready_in_time(tmp_path):
    late = a_process("late", tmp_path, ready=lambda timeout_s: False, ready_deadline_s=0.3)
    with (
        pytest.raises(Unavailable, match=r"process=late.*not ready in 0.3 s"),
        supervising(tmp_path, [late]),
    ):
        pass
    assert 0 == clear_leftovers(DataFolder(tmp_path / "data"))


def ready_once():
    """A process that says so, and then not again."""
    answers = iter([True])
    return lambda timeout_s: next(answers, False)


def test_all_processes_together_have_one_time_to_be_ready(tmp_path):
    """Which begins neither with each stage nor with each process."""
    first = a_process("first", tmp_path, ready=lambda timeout_s: True)  # by its first look
    late = a_process("late", tmp_path, ready=lambda timeout_s: False, ready_deadline_s=600.0)
    with (
        pytest.raises(Unavailable, match=r"process=late.*not ready in 0.3 s"),
        supervising(tmp_path, [first], [late], start_s_max=0.3),
    ):
        pass
    assert 0 == clear_leftovers(DataFolder(tmp_path / "data"))


def test_process_that_is_ready_no_more_is_waited_for_no_longer_than_the_others(tmp_path):
    was = a_process("was", tmp_path, ready=ready_once(), ready_deadline_s=600.0)
    late = a_process("late", tmp_path, ready=lambda timeout_s: was_unready(tmp_path))
    with (
        pytest.raises(Unavailable, match=r"START_FAILED.*not ready in 3 s"),
        supervising(tmp_path, [was, late], start_s_max=3.0),
    ):
        pass


def was_unready(folder):
    state = read_state(DataFolder(folder / "data"))
    return state is not None and UNREADY == state.processes[0].state


def test_taken_port_stops_the_start_before_anything_runs(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        first = a_process("first", tmp_path)
        second = a_process("second", tmp_path, ports={"second-grpc": port})
        with (
            pytest.raises(Unavailable, match=f"PORT_TAKEN.*port={port}, setting=second-grpc"),
            supervising(tmp_path, [first], [second]),
        ):
            pass
    assert not (tmp_path / "starts").exists()


def test_process_that_keeps_dying_is_given_up_and_the_others_run_on(tmp_path):
    dies, said = a_process("dies", tmp_path, DIES_WHEN_TOLD), []
    with supervising(tmp_path, [a_process("stays", tmp_path)], [dies], said=said, restarts_max=3):
        (tmp_path / "die").write_text("1")
        state = wait_until(
            lambda: next(
                (
                    s
                    for s in [read_state(DataFolder(tmp_path / "data"))]
                    if s.processes[1].state == FAILED
                ),
                None,
            )
        )
        assert 3 == state.processes[1].restarts
        assert READY == state.processes[0].state
    assert any(line.startswith("dies: ended with exit code 1; given up, see") for line in said)


def test_wrong_setting_is_not_tried_again(tmp_path):
    said = []
    with supervising(tmp_path, [a_process("dies", tmp_path, DIES_WHEN_TOLD)], said=said):
        (tmp_path / "die").write_text("78")
        wait_until(lambda: any("given up" in line for line in said))
    assert not any("starts again" in line for line in said)


def test_healthy_time_forgives_earlier_restarts(tmp_path):
    policy = {"healthy_after_s": 0.0, "restarts_max": 1}
    with supervising(tmp_path, [a_process("only", tmp_path)], **policy):
        for restarts in (1, 2, 3):
            os.kill(wait_until(lambda: ready(tmp_path)).processes[0].pid, signal.SIGKILL)
            wait_until(lambda r=restarts: ready(tmp_path, lambda s: s.processes[0].restarts == r))


def test_process_that_ignores_the_stop_signal_is_killed_after_its_grace(tmp_path):
    with supervising(tmp_path, [a_process("deaf", tmp_path, DEAF, stop_grace_s=0.2)]):
        pid = read_state(DataFolder(tmp_path / "data")).processes[0].pid
        assert alive(pid)
    assert not alive(pid)


def test_state_says_when_a_process_is_no_longer_ready(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor_module, "PROBE_INTERVAL_S", 0.05)
    with supervising(tmp_path, [a_process("only", tmp_path)]):
        (tmp_path / "only.ready").unlink()
        folder = DataFolder(tmp_path / "data")
        wait_until(lambda: read_state(folder).processes[0].state == UNREADY)


def test_memory_is_summed_over_the_process_tree(tmp_path, start):
    start()
    state = ready(tmp_path)
    measured = rss_mb_by_service(state)
    alone = psutil.Process(pid_of("second", tmp_path)).memory_info().rss / 1e6
    assert ["first", "second"] == list(measured)
    assert measured["second"] > alone


def test_log_holds_what_the_process_said(tmp_path, start):
    start()
    log = Path(ready(tmp_path).processes[0].log)
    assert "first runs\n" == log.read_text()


def test_full_log_is_moved_aside_while_its_writer_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor_module, "LOG_BYTES_MAX", 10)
    log = tmp_path / "service.log"
    with log.open("a") as writer:
        writer.write("twelve bytes")
        writer.flush()
        bound_log(log)
        writer.write("more")
    assert "twelve bytes" == (tmp_path / "service.log.1").read_text()
    assert "more" == log.read_text()


def test_restart_delay_doubles_up_to_its_cap():
    policy = RestartPolicy()
    assert [0.2, 0.4, 0.8, 10.0] == [policy.delay_s(restarts) for restarts in (0, 1, 2, 40)]


def test_http_probe_of_a_closed_port_is_not_ready():
    assert not HttpReady("http://127.0.0.1:1/health/ready")(0.2)


def test_folder_that_cannot_be_made_is_told(tmp_path):
    (file := tmp_path / "file").write_text("")
    supervisor = Supervisor(list, DataFolder(file / "data"), report=lambda line: None)

    with pytest.raises(Unavailable, match="DATA_FOLDER_UNUSABLE"):
        supervisor.run()


@pytest.fixture
def unwritable(tmp_path, monkeypatch):
    """As on a file system that is mounted read-only, for root too."""
    folder = DataFolder(tmp_path / "data")
    for each in (folder.run, folder.logs):
        each.mkdir(parents=True)
    folder.lock.touch()

    opened = Path.open

    def refuse(self, mode="a", *more, **named):
        if mode.startswith("r"):
            return opened(self, mode, *more, **named)
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "touch", refuse)
    return folder


@pytest.mark.parametrize(
    "use",
    [
        lambda folder: Supervisor(list, folder, report=lambda line: None).run(),
        lambda folder: start_detached(["true"], folder, deadline_s=DEADLINE_S),
        lambda folder: stop(folder, deadline_s=DEADLINE_S),
    ],
    ids=["up", "up --detach", "down"],
)
def test_folder_that_is_there_and_cannot_be_written_is_told(use, unwritable):
    with pytest.raises(Unavailable, match="DATA_FOLDER_UNUSABLE") as caught:
        use(unwritable)

    assert "Read-only file system" == caught.value.metadata["problem"]


def test_state_that_cannot_be_written_is_told_once_and_all_goes_on(tmp_path, monkeypatch):
    said, full = [], [True]
    write = supervisor_module.write_state

    def write_unless_full(folder, state):
        if full[0]:
            raise OSError(28, "No space left on device")
        write(folder, state)

    monkeypatch.setattr(supervisor_module, "write_state", write_unless_full)
    plan = lambda: [Stage([a_process("a", tmp_path)])]  # noqa: E731
    folder = DataFolder(tmp_path / "data")
    with Supervisor(plan, folder, report=said.append).running():
        assert 1 == sum("No space left on device" in line for line in said)
        assert read_state(folder) is None
        full[0] = False
        wait_until(lambda: (state := read_state(folder)) is not None and state.ready)

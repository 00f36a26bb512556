# SPDX-License-Identifier: Apache-2.0
"""Models come and go under a budget: nobody waits for a load but those who asked for that model."""

import gc
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime.capi import onnxruntime_pybind11_state

from headrace.errors import Busy, Conflict, HeadraceError, Unavailable
from headrace_inference.adapters import resident_models
from headrace_inference.adapters.onnx_providers import providers
from headrace_inference.adapters.onnx_runtime import OnnxModelRuntime
from headrace_inference.adapters.resident_models import ResidentModels
from headrace_inference.adapters.run_memory import SHARES
from headrace_inference.domain.rollout import ServedVersion
from headrace_inference.domain.serving import TensorSpec, Tried
from headrace_inference.testing import a_model, a_served_version
from headrace_kit.testing import wait_until

X = TensorSpec("x", "FP32", (-1, 1))
ROW = {"x": np.ones((1, 1), np.float32)}


class Session:
    """Answers with its own number; a run may be held up."""

    inputs, outputs, tried = (X,), (X,), Tried(True, 1e-5, 1e-6)

    def __init__(self, number, room):
        self.number, self.room, self.warmed = number, room, []

    def try_out(self, known):
        self.room.told.append(known)
        if self.number in self.room.slow:
            self.room.trying.add(self.number)
            assert self.room.may_try.wait(60)

    def warm(self, recorded):
        self.warmed.append(recorded)

    def run(self, inputs, outputs, ending=None):
        self.room.running.set()
        assert self.room.may_run.wait(10)
        return [np.full((1,), self.number)]

    def __del__(self):
        self.room.heap_bytes -= self.room.bytes_of.get(self.number, 100)


class Room:
    """A budget of 300 bytes over artifacts of 10 that take 100 in memory, if not said otherwise."""

    def __init__(self, memory_bytes_max=300, waiters_max=10):
        self.heap_bytes, self.bytes_of, self.got, self.sessions = 5_000, {}, [], []
        self.prepared, self.told = False, []
        self.slow, self.trying, self.may_try = set(), set(), threading.Event()
        self.may_get, self.may_run = threading.Event(), threading.Event()
        self.may_get.set()
        self.may_run.set()
        self.running, self.get_fails = threading.Event(), None
        self.models = ResidentModels(
            artifacts=self,
            runtime=self,
            memory_bytes_max=memory_bytes_max,
            waiters_max=waiters_max,
            allocated_bytes=lambda: self.heap_bytes,
        )

    def fetch(self, digest):
        assert self.may_get.wait(10)
        self.got.append(int(digest))
        if self.get_fails is not None:
            raise self.get_fails

    def get(self, digest):
        return b"0123456789"

    def prepare(self):
        self.prepared = True

    def load(self, onnx, served):
        assert self.prepared
        self.heap_bytes += self.bytes_of.get(served.version, 100)
        self.sessions.append(Session(served.version, self))
        return self.sessions[-1]

    def a_model(self, number, *, like=None):
        model = self.models.load(a_version(number), like=like)
        self.sessions.clear()  # the model alone holds its session
        return model

    def evicted(self, model):
        assert model.let_go()
        self.got.clear()
        return model


def a_version(number):
    return ServedVersion(number, str(number), ())


@pytest.fixture
def room():
    made = Room()
    yield made
    made.may_get.set()
    made.may_run.set()
    made.may_try.set()
    made.models.stop(0)


def resident(*models):
    return [model.resident for model in models]


def test_model_used_least_lately_leaves_for_the_one_that_is_loaded(room):
    first, second, third = room.a_model(1), room.a_model(2), room.a_model(3)
    first.run(ROW, ["x"])

    fourth = room.a_model(4)

    assert [True, False, True, True] == resident(first, second, third, fourth)


def test_model_that_left_comes_back_when_it_is_asked(room):
    models = [room.a_model(number) for number in (1, 2, 3, 4)]
    assert [False, True, True, True] == resident(*models)

    assert 1.0 == models[0].run(ROW, ["x"])[0]

    assert [True, False, True, True] == resident(*models)
    assert (X,) == models[1].inputs


def test_model_that_comes_back_is_not_tried_again(room):
    model = room.evicted(room.a_model(1))

    model.run(ROW, ["x"])

    assert [None, Session.tried] == room.told


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(20, 280), min_size=4, max_size=8),
    st.lists(st.integers(0, 7), max_size=30),
)
def test_models_never_take_more_than_the_budget_and_all_are_answered(sizes, asked):
    room = Room()
    room.bytes_of = dict(enumerate(sizes))
    models = [room.a_model(number) for number in room.bytes_of]
    for place in asked:
        model = models[place % len(models)]
        assert model.served.version == model.run(ROW, ["x"])[0]
        room.sessions.clear()
        assert room.heap_bytes - 5_000 <= 300
        assert room.heap_bytes - 5_000 == sum(m.bytes for m in models if m.resident)
    room.models.stop(0)


def test_model_too_large_alone_is_refused_by_what_it_takes(room):
    small = room.a_model(1)
    room.bytes_of[2] = 301

    with pytest.raises(Conflict, match="MODEL_TOO_LARGE") as refused:
        room.a_model(2)

    assert "301" == refused.value.metadata["bytes"]
    assert small.run(ROW, ["x"])[0] == 1.0


def test_model_at_work_stays_until_its_run_ends(room):
    room.bytes_of = {1: 300, 2: 300}
    first = room.a_model(1)
    room.may_run.clear()
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(first.run, ROW, ["x"])
        assert room.running.wait(10)
        loading = pool.submit(room.a_model, 2)
        wait_until(lambda: room.got[-1] == 2)
        assert first.resident
        room.may_run.set()

        assert 1.0 == running.result(10)[0]
        assert loading.result(10).resident
    assert not first.resident


def test_load_is_refused_when_those_at_work_leave_no_room(room, monkeypatch):
    monkeypatch.setattr(resident_models, "ROOM_S_MAX", 0.01)
    room.bytes_of = {1: 300}
    first = room.a_model(1)
    room.may_run.clear()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(first.run, ROW, ["x"])
        assert room.running.wait(10)

        with pytest.raises(Busy, match="MODEL_MEMORY_FULL"):
            room.a_model(2)

        room.may_run.set()
        assert 1.0 == running.result(10)[0]


def test_runs_of_all_models_have_their_memory_together(room):
    large = Tried(rows_apart=True, input_bytes_max=ROW["x"].nbytes)
    first, other = room.a_model(1), room.a_model(2)
    first.tried = other.tried = large
    room.may_run.clear()
    with ThreadPoolExecutor(int(SHARES)) as pool:
        running = [pool.submit(first.run, ROW, ["x"]) for _ in range(int(SHARES))]
        wait_until(lambda: first._uses == SHARES)

        with pytest.raises(Busy, match="QUEUE_FULL"):
            other.run(ROW, ["x"])

        room.may_run.set()
        assert [1.0] * len(running) == [each.result(10)[0] for each in running]
    assert 2.0 == other.run(ROW, ["x"])[0]


def test_idle_models_stay_when_they_do_not_leave_room_enough(room, monkeypatch):
    monkeypatch.setattr(resident_models, "ROOM_S_MAX", 0.01)
    room.bytes_of = {3: 250}
    working, idle = room.a_model(1), room.a_model(2)
    room.may_run.clear()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(working.run, ROW, ["x"])
        assert room.running.wait(10)

        with pytest.raises(Busy, match="MODEL_MEMORY_FULL"):
            room.a_model(3)

        assert idle.resident
        room.may_run.set()
        assert 1.0 == running.result(10)[0]


def test_all_who_ask_a_model_that_left_share_its_load(room):
    model = room.evicted(room.a_model(1))
    room.may_get.clear()
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(model.run, ROW, ["x"]) for _ in range(8)]
        room.may_get.set()
        assert [1.0] * 8 == [answer.result(10)[0] for answer in answers]

    assert [1] == room.got


def test_loaded_models_answer_while_another_is_loaded(room):
    hot, cold = room.a_model(1), room.evicted(room.a_model(2))
    room.may_get.clear()

    loading = cold.load()

    assert 1.0 == hot.run(ROW, ["x"])[0]
    assert not loading.done()


def test_wait_for_a_load_ends_with_its_caller_and_the_load_goes_on(room):
    model = room.evicted(room.a_model(1))
    room.may_get.clear()

    with pytest.raises(Unavailable, match="DEADLINE_UNMET"):
        model.await_load(lambda: 0.0)

    room.may_get.set()
    wait_until(lambda: model.resident)


def test_caller_that_hangs_up_gives_back_its_place_among_those_who_wait(room):
    model = room.evicted(room.a_model(1))
    room.may_get.clear()
    left_s = [60.0]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(model.await_load, lambda: left_s[0])
        wait_until(lambda: room.models.waiters == 1)

        left_s[0] = 0.0
        with pytest.raises(Unavailable, match="DEADLINE_UNMET"):
            waiting.result(10)

    assert 0 == room.models.waiters


def test_callers_that_wait_for_loads_are_bounded():
    room = Room(waiters_max=1)
    model = room.evicted(room.a_model(1))
    room.may_get.clear()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(model.run, ROW, ["x"])
        wait_until(lambda: room.models.waiters == 1)

        with pytest.raises(Busy, match="QUEUE_FULL"):
            model.await_load(lambda: 1.0)

        room.may_get.set()
        assert 1.0 == waiting.result(10)[0]


def test_failed_load_is_told_to_all_and_tried_again_later(room, monkeypatch):
    model = room.evicted(room.a_model(1))
    room.get_fails = Unavailable("SERVICE_UNAVAILABLE")
    for _ in range(3):
        with pytest.raises(Unavailable, match="SERVICE_UNAVAILABLE"):
            model.run(ROW, ["x"])
    assert [1] == room.got

    room.get_fails = None
    monkeypatch.setattr(resident_models, "RETRY_S", 0.0)

    assert 1.0 == model.run(ROW, ["x"])[0]


def test_load_that_failed_is_not_begun_again_by_who_hears_of_it_first(room, monkeypatch):
    model = room.evicted(room.a_model(1))
    room.get_fails = Unavailable("SERVICE_UNAVAILABLE")
    tell, heard = Future._invoke_callbacks, []

    def tell_after_a_caller(loading):
        """As when who waited goes on before anything else is done."""
        heard.append(model.load() is loading)
        tell(loading)

    monkeypatch.setattr(Future, "_invoke_callbacks", tell_after_a_caller)
    room.may_get.clear()
    model.load()
    room.may_get.set()

    wait_until(lambda: heard)
    assert [True] == heard


def test_replaced_model_leaves_its_room_to_others(room):
    room.bytes_of = {1: 300}
    replaced = room.a_model(1)
    del replaced
    gc.collect()

    others = [room.a_model(number) for number in (2, 3, 4)]

    assert [True] * 3 == resident(*others)


def test_new_model_is_warmed_with_what_the_one_before_was_asked(room):
    before = room.a_model(1)
    before.run(ROW, ["x"])
    room.models.load(a_version(2), like=before)

    [session] = room.sessions

    assert [ROW] == session.warmed


def test_model_that_is_slow_to_try_holds_up_no_other_and_keeps_its_room(room):
    room.slow = {1, 2}
    with ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(room.models.load, a_version(number), like=None) for number in (1, 2)]
        wait_until(lambda: room.trying == {1, 2}, timeout_s=60)

        third = room.a_model(3)
        fourth = room.a_model(4)

        assert [False, True] == resident(third, fourth)
        room.may_try.set()
        assert [True, True] == resident(*(each.result(timeout=60) for each in slow))


def test_large_inputs_are_not_recorded(room):
    model = room.a_model(1)

    model.run({"x": np.zeros((resident_models.RECORDED_BYTES_MAX, 1), np.float32)}, ["x"])

    assert {} == model.recorded


def test_session_changes_its_providers_never_while_it_answers(monkeypatch):
    def fails(*_):
        raise onnxruntime_pybind11_state.EPFail("out of its memory")

    onnx, changed = a_model(1.0), []
    monkeypatch.setattr(onnxruntime_pybind11_state.InferenceSession, "run", fails)
    monkeypatch.setattr(onnxruntime.InferenceSession, "set_providers", changed.append)
    session = OnnxModelRuntime(threads=1, run_bytes_max=1 << 30, providers=providers("cpu")).load(
        onnx, a_served_version(onnx=onnx)
    )

    with pytest.raises(HeadraceError, match="MODEL_ERROR"):
        session.run({"features": np.zeros((1, 3), np.float32)}, ["score"])
    assert [] == changed


def test_session_of_the_runtime_keeps_no_copy_of_its_file():
    onnx = bytes(bytearray(a_model(1.0)))
    held = sys.getrefcount(onnx)

    session = OnnxModelRuntime(threads=1, run_bytes_max=1 << 30, providers=providers("cpu")).load(
        onnx, a_served_version(onnx=onnx)
    )

    assert held == sys.getrefcount(onnx)
    assert [1.0] == session.run({"features": np.zeros((1, 3), np.float32)}, ["score"])[0]

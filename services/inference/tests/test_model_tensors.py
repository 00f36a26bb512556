# SPDX-License-Identifier: Apache-2.0
"""Versions without features: any model's own tensors, several of them, of every data type."""

import gc
import math
import os
from contextlib import nullcontext
from hashlib import sha256
from itertools import count
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state
from structlog.testing import capture_logs

from headrace.errors import Busy, HeadraceError, Invalid, Unavailable
from headrace_inference.adapters import onnx_runtime
from headrace_inference.adapters.process_memory import PeakGrowth
from headrace_inference.domain.model_tensors import FEW, holds_nan
from headrace_inference.domain.request import InferRequest, Tensor
from headrace_inference.domain.rollout import Rollout
from headrace_inference.domain.serving import ServingTable, TensorSpec, Tried
from headrace_inference.handlers import predict, serve_rollout
from headrace_inference.testing import (
    MemoryArtifactStore,
    MemoryFeatureReader,
    a_running_sum,
    a_served_version,
    a_spreading_model,
    a_tensor,
    an_adder,
    an_echo,
    an_endless_model,
    an_endpoint,
    models_of,
    onnx_bytes,
)
from headrace_kit.testing import FixedClock

PEAK_IS_TOLD = os.access("/proc/self/clear_refs", os.W_OK)
ELEMENT_TYPE = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
}


class Room:
    """One endpoint `delay` that serves the given model as version 1."""

    def __init__(self, onnx, *, canary=None, run_bytes_max=1 << 30):
        self.run_bytes_max = run_bytes_max
        self.table = ServingTable()
        self.table.define(an_endpoint())
        self.artifacts = MemoryArtifactStore()
        self.promote(1, onnx, canary)

    def promote(self, version, onnx, canary=None):
        versions = [
            a_served_version(number, onnx=each, features=())
            for number, each in enumerate((onnx, canary), start=version)
            if each is not None and self.artifacts.upload(each)
        ]
        rollout = Rollout("delay", "any", version, *versions)
        self.table.want(rollout)
        models = models_of(self.artifacts, run_bytes_max=self.run_bytes_max)
        serve_rollout(rollout, table=self.table, models=models)

    @property
    def serving(self):
        return self.table.ready("delay")[1]

    @property
    def model(self):
        return self.serving.champion.model

    def infer(self, *inputs, outputs=()):
        request = InferRequest("delay", None, "r-1", {each.name: each for each in inputs}, outputs)
        return predict(
            request,
            table=self.table,
            features=MemoryFeatureReader(),
            clock=FixedClock(),
            time_left_s=lambda: 60.0,
            rows_max=100,
            explaining=nullcontext,
            on_failed=lambda _: None,
        )


def two_inputs(rows=1):
    ramp = np.arange(16 * rows).reshape(rows, 16)
    return a_tensor("INPUT0", "INT32", ramp), a_tensor("INPUT1", "INT32", np.ones((rows, 16)))


def test_model_with_two_inputs_and_outputs_gives_both():
    answer = Room(an_adder()).infer(*two_inputs())

    assert list(range(1, 17)) == answer.outputs["OUTPUT0"].values[0].tolist()
    assert list(range(-1, 15)) == answer.outputs["OUTPUT1"].values[0].tolist()
    assert ["OUTPUT0", "OUTPUT1"] == [tensor.name for tensor in answer.answer(())]


def test_only_the_wanted_output_is_given_with_the_id_when_asked():
    answer = Room(an_adder()).infer(*two_inputs(2), outputs=("OUTPUT1", "prediction_id"))

    assert ["OUTPUT1"] == list(answer.outputs)
    assert [("OUTPUT1", (2, 16)), ("prediction_id", (2,))] == [
        (tensor.name, tensor.shape) for tensor in answer.answer(("OUTPUT1", "prediction_id"))
    ]


@pytest.mark.parametrize("datatype", ELEMENT_TYPE)
def test_numbers_of_every_type_come_back_as_they_were(datatype):
    sent = a_tensor("x", datatype, [[0, 1], [1, 0]])

    got = Room(an_echo(ELEMENT_TYPE[datatype])).infer(sent).outputs["y"]

    assert (datatype, sent.values.dtype) == (got.datatype, got.values.dtype)
    np.testing.assert_array_equal(sent.values, got.values)


def test_text_comes_back_as_it_was():
    words = ["Füllhorn".encode(), b"", b"c", b"d"]
    room = Room(an_echo(TensorProto.STRING))

    got = room.infer(Tensor("x", "BYTES", (2, 2), words)).outputs["y"]

    assert ("BYTES", (2, 2), words) == (got.datatype, got.shape, got.values)


def test_text_that_is_not_utf8_is_refused():
    room = Room(an_echo(TensorProto.STRING))

    with pytest.raises(Invalid, match="TENSOR_CONTENT"):
        room.infer(Tensor("x", "BYTES", (1, 2), [b"a", b"\xff"]))


@pytest.mark.parametrize(
    ("reason", "inputs"),
    [
        ("TENSOR_NAME", two_inputs()[:1]),
        ("TENSOR_NAME", (*two_inputs(), a_tensor("INPUT2", "INT32", [[1]]))),
        ("TENSOR_DTYPE", (two_inputs()[0], a_tensor("INPUT1", "FP32", [[1.0] * 16]))),
        ("TENSOR_SHAPE", (two_inputs()[0], a_tensor("INPUT1", "INT32", [[1] * 15]))),
        ("TENSOR_SHAPE", (two_inputs()[0], a_tensor("INPUT1", "INT32", [1] * 16))),
        ("TENSOR_SHAPE", (two_inputs()[0], two_inputs(2)[1])),
        ("TENSOR_SHAPE", two_inputs(0)),
    ],
    ids=["missing", "unknown", "dtype", "width", "rank", "rows differ", "no rows"],
)
def test_inputs_that_do_not_fit_are_refused(reason, inputs):
    with pytest.raises(Invalid, match=reason):
        Room(an_adder()).infer(*inputs)


def test_request_without_rows_is_told_to_have_none():
    with pytest.raises(Invalid, match="number of rows") as refused:
        Room(an_adder()).infer(*two_inputs(0))

    assert "{'INPUT0': 0, 'INPUT1': 0}" == refused.value.metadata["rows_by_input"]


def test_unknown_output_is_refused():
    with pytest.raises(Invalid, match="TENSOR_NAME"):
        Room(an_adder()).infer(*two_inputs(), outputs=("score",))


def test_more_rows_than_the_cap_are_refused():
    with pytest.raises(Busy, match="BATCH_TOO_LARGE"):
        Room(an_adder()).infer(*two_inputs(101))


def test_rows_are_apart_only_where_each_is_answered_by_itself():
    assert Room(an_adder()).model.rows_apart
    assert not Room(a_running_sum()).model.rows_apart
    assert not Room(an_echo(TensorProto.FLOAT, (1, 2))).model.rows_apart


def test_request_to_a_model_without_rows_is_one_prediction():
    answer = Room(a_running_sum()).infer(a_tensor("x", "FP32", [[1, 2], [3, 4], [5, 6]]))

    assert [[1, 2], [4, 6], [9, 12]] == answer.outputs["y"].values.tolist()
    assert 1 == len(answer.prediction_ids)


def test_model_that_cannot_be_tried_serves():
    reshape = helper.make_node("Reshape", ["x", "shape"], ["y"])
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [2, 3])
    onnx = onnx_bytes(
        [reshape],
        [shape],
        inputs={"x": (TensorProto.FLOAT, ["n"])},
        outputs={"y": (TensorProto.FLOAT, [2, 3])},
    )

    answer = Room(onnx).infer(a_tensor("x", "FP32", [0, 1, 2, 3, 4, 5]))

    assert [[0, 1, 2], [3, 4, 5]] == answer.outputs["y"].values.tolist()


def test_signature_is_the_models_own():
    model = Room(an_echo(TensorProto.DOUBLE, ("rows", "wide", 3))).model

    assert (TensorSpec("x", "FP64", (-1, -1, 3), ("rows", "wide", "")),) == model.inputs


def test_output_may_be_infinite_and_not_nan():
    room = Room(an_echo(TensorProto.FLOAT))

    assert math.inf == room.infer(a_tensor("x", "FP32", [[math.inf, 0]])).outputs["y"].values[0, 0]
    with pytest.raises(Invalid, match="TENSOR_NONFINITE"):
        room.infer(a_tensor("x", "FP32", [[math.nan, 0]]))


def a_quotient():
    return onnx_bytes(
        [helper.make_node("Div", ["x", "z"], ["y"])],
        [],
        inputs={name: (TensorProto.FLOAT, ["rows", 1]) for name in "xz"},
        outputs={"y": (TensorProto.FLOAT, ["rows", 1])},
    )


def test_infinity_of_finite_inputs_is_answered_by_own_tensors():
    inputs = a_tensor("x", "FP32", [[1.0]]), a_tensor("z", "FP32", [[0.0]])

    assert [[math.inf]] == Room(a_quotient()).infer(*inputs).outputs["y"].values.tolist()


def test_answer_that_is_no_number_is_the_fault_of_who_sent_none():
    room = Room(a_quotient())

    def refused(x, z):
        with pytest.raises(HeadraceError) as raised:
            room.infer(a_tensor("x", "FP32", [[x]]), a_tensor("z", "FP32", [[z]]))
        return raised.value.reason, raised.value.metadata

    assert ("MODEL_NONFINITE", {"version": "1"}) == refused(0.0, 0.0)
    assert ("TENSOR_NONFINITE", {"input": "z"}) == refused(0.0, math.nan)
    assert ("TENSOR_NONFINITE", {"input": "x"}) == refused(math.inf, math.inf)


def test_bfloat16_is_held_to_the_same_though_it_is_held_as_bits():
    tensor = (TensorProto.BFLOAT16, ["rows", 1])
    nodes = [
        *(helper.make_node("Cast", [name], [name * 2], to=TensorProto.FLOAT) for name in "xz"),
        helper.make_node("Div", ["xx", "zz"], ["yy"]),
        helper.make_node("Cast", ["yy"], ["y"], to=TensorProto.BFLOAT16),
    ]
    room = Room(onnx_bytes(nodes, [], inputs={"x": tensor, "z": tensor}, outputs={"y": tensor}))
    zero, one, infinite, nan = 0x0000, 0x3F80, 0x7F80, 0x7FC0

    def asked(x, z):
        sent = {name: np.array([[bits]], "<u2") for name, bits in {"x": x, "z": z}.items()}
        try:
            tensors = (Tensor(name, "BF16", (1, 1), bits) for name, bits in sent.items())
            return room.infer(*tensors).outputs["y"].values.item()
        except HeadraceError as err:
            return err.reason

    assert one == asked(one, one)
    assert infinite == asked(one, zero)
    assert "MODEL_NONFINITE" == asked(zero, zero)
    assert "TENSOR_NONFINITE" == asked(nan, one) == asked(infinite, infinite)


def test_canary_with_the_same_signature_is_the_shadow():
    negated = onnx_bytes(
        [helper.make_node("Neg", ["x"], ["y"])],
        [],
        inputs={"x": (TensorProto.FLOAT, ["rows", 2])},
        outputs={"y": (TensorProto.FLOAT, ["rows", 2])},
    )
    same, other = Room(an_echo(TensorProto.FLOAT), canary=negated), an_echo(TensorProto.DOUBLE)

    answer = same.infer(a_tensor("x", "FP32", [[1, 2]]))

    assert (2, [[-1, -2]]) == (answer.shadow.version, answer.shadow.outputs["y"].values.tolist())
    unlike = Room(an_echo(TensorProto.FLOAT), canary=other)
    assert unlike.infer(a_tensor("x", "FP32", [[1, 2]])).shadow is None


@pytest.mark.parametrize("element_type", ["FLOAT", "STRING", "BFLOAT16", "INT64"])
@pytest.mark.parametrize("name", ["x", "z"])
def test_version_of_other_inputs_is_served_after_one_that_was_asked(element_type, name):
    room = Room(an_echo(TensorProto.FLOAT))
    room.infer(a_tensor("x", "FP32", [[1, 2]]))
    new = onnx_bytes(
        [helper.make_node("Identity", [name], ["y"])],
        [],
        inputs={name: (getattr(TensorProto, element_type), ["rows", 2])},
        outputs={"y": (getattr(TensorProto, element_type), ["rows", 2])},
    )

    room.promote(2, new)

    assert (2, name) == (room.serving.champion.served.version, room.model.inputs[0].name)


@pytest.mark.parametrize("raises", [ValueError, RuntimeError, MemoryError, TypeError])
def test_whatever_the_runtime_raises_while_it_loads_is_the_files_fault(raises, monkeypatch):
    def fails(*_, **__):
        raise raises("from within")

    room = Room(an_echo(TensorProto.FLOAT))
    monkeypatch.setattr(onnxruntime, "InferenceSession", fails)

    with pytest.raises(Invalid, match="FORMAT"):
        room.promote(2, an_adder())
    assert 1 == room.serving.champion.served.version


@pytest.mark.parametrize("raises", [ValueError, RuntimeError, MemoryError, TypeError])
def test_whatever_the_runtime_raises_while_it_runs_is_the_models_fault(raises, monkeypatch):
    def fails(*_, **__):
        raise raises("from within")

    monkeypatch.setattr(onnxruntime_pybind11_state.InferenceSession, "run", fails)
    room = Room(an_echo(TensorProto.FLOAT))  # to try it fails too, which keeps it from nothing

    with pytest.raises(HeadraceError, match="MODEL_ERROR"):
        room.infer(a_tensor("x", "FP32", [[1, 2]]))


def test_log_names_the_model_that_fails(monkeypatch):
    def fails(*_):
        raise RuntimeError("from within")

    monkeypatch.setattr(onnxruntime_pybind11_state.InferenceSession, "run", fails)
    onnx = an_echo(TensorProto.FLOAT)
    with capture_logs() as logged:
        room = Room(onnx)
        with pytest.raises(HeadraceError, match="MODEL_ERROR"):
            room.infer(a_tensor("x", "FP32", [[1, 2]]))

    assert {"model_failed", "model_not_tried"} == {line["event"] for line in logged}
    assert {sha256(onnx).hexdigest()} == {line["digest"] for line in logged}


def test_model_that_is_slow_is_not_tried_for_long(monkeypatch):
    """Ends at all: its loop would take hours."""
    monkeypatch.setattr(onnx_runtime, "ROWS_TRIAL_S_MAX", 0.1)
    monkeypatch.setattr(onnx_runtime, "TIMING_S_MAX", 0.1)

    with capture_logs() as logged:
        assert Tried() == Room(an_endless_model()).model.tried
    # Which is no failure of it.
    [told] = [line for line in logged if line["event"].startswith("model")]
    assert ("model_not_tried", 0.1) == (told["event"], told["rows_trial_s_max"])
    assert "DEADLINE_UNMET" in told["error"]


class TimedRuns:
    """What a session asks of ONNX Runtime's, and the clocks: a run takes what is said of its rows,
    the next of several each time; None: it goes on until it is ended, 0.25 s later.
    """

    def __init__(self, seconds_by_rows):
        node = SimpleNamespace(name="x", type="tensor(float)", shape=["rows", 2])
        self.get_inputs = self.get_outputs = lambda: [node]
        self._sess = self
        self._seconds = {rows: iter(each) for rows, each in seconds_by_rows.items()}
        self._now_s = 0.0
        self.perf_counter = self.monotonic = self.thread_time = lambda: self._now_s

    def run(self, _, inputs, options):
        took_s = next(self._seconds.get(len(inputs["x"]), iter(())), 0.001)
        self._now_s += 0.25 if took_s is None else took_s
        if took_s is None or options.terminate:
            options.terminate = True
            raise RuntimeError("ended")
        return [inputs["x"]]


@pytest.mark.parametrize(
    ("seconds_by_rows", "first_row_s", "many_s"),
    [
        ({}, 0.001, 0.001),
        ({64: [0.2, 0.1, 0.3]}, 0.001, 0.001),
        # None would let a lane take any number of rows.
        ({64: [None]}, 0.001, 0.25),
        ({64: [0.2, 0.1, None]}, 0.001, 0.1),
        # The first two are of the trial before.
        ({1: [0.001, 0.001, None]}, 0.25, 0.25),
        ({1: [0.001, 0.001, 0.5, 0.6]}, 0.5, 0.5),
    ],
)
def test_what_is_ended_by_its_bound_takes_so_long_at_least(
    monkeypatch, seconds_by_rows, first_row_s, many_s
):
    runs = TimedRuns(seconds_by_rows)
    monkeypatch.setattr(onnx_runtime, "time", runs)
    session = onnx_runtime.OnnxSession(runs, digest="0" * 64, run_bytes_max=1 << 30)

    session.try_out(None)

    assert session.tried.rows_apart
    assert pytest.approx(first_row_s) == session.tried.first_row_s
    assert pytest.approx(many_s) == session.tried.least_s(onnx_runtime.TRIED_ROWS)


def test_input_of_more_than_there_is_memory_is_not_tried():
    assert Tried() == Room(an_echo(TensorProto.FLOAT, ("rows", 2**30))).model.tried
    assert Tried(rows_apart=False) == Room(an_echo(TensorProto.FLOAT, (2**20, 2**20))).model.tried


RUN_BYTES, OWN_BYTES = 256 << 20, 640_000
# 40 MB a row.
MANY_NUMBERS = 10_000_000


@pytest.fixture
def undisturbed(monkeypatch):
    """A trial with the time that it takes on a machine with other work, while nothing is freed that
    tests before have left.
    """
    for bound in ("ROWS_TRIAL_S_MAX", "TIMING_S_MAX", "LENGTHS_TRIAL_S_MAX"):
        monkeypatch.setattr(onnx_runtime, bound, 60.0)
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def rows_of(count):
    return a_tensor("x", "FP32", np.ones((count, 1)))


# An answer is copied twice; what is no answer only the kernel tells of.
@pytest.mark.usefixtures("undisturbed")
@pytest.mark.parametrize(
    ("told", "fitting"),
    [
        (True, range(2, 3)),
        pytest.param(
            False,
            range(5, 8),
            marks=pytest.mark.skipif(not PEAK_IS_TOLD, reason="this kernel does not tell"),
        ),
    ],
)
def test_request_that_takes_more_memory_than_a_run_may_is_not_run(told, fitting):
    room = Room(a_spreading_model(MANY_NUMBERS, told=told), run_bytes_max=RUN_BYTES)
    growth = PeakGrowth()

    with pytest.raises(Busy, match="BATCH_TOO_LARGE") as refused:
        room.infer(rows_of(100))

    rows_max = int(refused.value.metadata["rows_max"])
    assert rows_max in fitting
    assert growth.bytes() < 40_000_000
    room.infer(rows_of(rows_max))
    assert growth.bytes() <= 1.1 * RUN_BYTES


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.parametrize(("numbers", "rows"), [(MANY_NUMBERS, 2), (1_000, 64)])
def test_no_more_rows_are_tried_than_fit(monkeypatch, numbers, rows):
    tried, run_by = [], onnx_runtime.OnnxSession._run_by

    def noted(session, options, inputs, outputs):
        tried.append(len(inputs["x"]))
        return run_by(session, options, inputs, outputs)

    monkeypatch.setattr(onnx_runtime.OnnxSession, "_run_by", noted)

    Room(a_spreading_model(numbers), run_bytes_max=RUN_BYTES)

    assert rows == max(tried)


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.skipif(not PEAK_IS_TOLD, reason="this kernel does not tell")
@pytest.mark.parametrize(
    ("disturbed", "row_bytes"),
    # A row is 8 bytes, and takes what it answers, three times; or its share of the 40 MB beside.
    [(range(100), range(24, 25)), (range(0, 100, 2), range(600_000, 750_000))],
    ids=["always", "every other run"],
)
def test_memory_that_others_take_meanwhile_is_no_bound_of_the_model(disturbed, row_bytes):
    others, runs = [], count()

    class Beside(TimedRuns):
        def run(self, _, inputs, options):
            bytearray(b"1") * (len(inputs["x"]) * OWN_BYTES)
            if next(runs) in disturbed:
                others.append(bytearray(b"1") * 20_000_000)
            return [inputs["x"]]

    session = onnx_runtime.OnnxSession(Beside({}), digest="0" * 64, run_bytes_max=RUN_BYTES)
    session.try_out(None)

    others.clear()
    assert RUN_BYTES // (session.tried.input_bytes_max // 8) in row_bytes


def test_row_is_run_alone_whatever_it_takes():
    room = Room(a_spreading_model(1_000), run_bytes_max=1_000)

    assert (1, 1_000) == room.infer(rows_of(1)).outputs["y"].values.shape
    with pytest.raises(Busy, match="BATCH_TOO_LARGE"):
        room.infer(rows_of(2))


def test_answer_that_is_too_large_to_be_compared_has_its_bound_for_all_that(monkeypatch):
    def fails(*_):
        raise Unavailable("DEADLINE_UNMET")

    monkeypatch.setattr(onnx_runtime, "_alike", fails)
    room = Room(a_spreading_model(1_000), run_bytes_max=30_000)

    assert room.model.tried.rows_apart is None
    assert 2 * 4 == room.model.tried.input_bytes_max


def test_rows_that_do_not_stand_apart_have_their_bound_too():
    room = Room(a_running_sum(), run_bytes_max=24 * 50)

    assert not room.model.rows_apart
    with pytest.raises(Busy, match="BATCH_TOO_LARGE"):
        room.infer(a_tensor("x", "FP32", np.ones((51, 2))))
    room.infer(a_tensor("x", "FP32", np.ones((50, 2))))


def test_model_that_takes_little_has_no_bound_of_a_size_that_is_sent():
    model = Room(an_adder()).model

    assert 64 << 20 < model.tried.input_bytes_max


LENGTH = {"x": (TensorProto.FLOAT, ["rows", "length", 4])}


def an_attention():
    """Of a row as long as its caller likes: it takes as the square of that."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "t"], ["s"]),
        helper.make_node("Softmax", ["s"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "x"], ["y"]),
    ]
    outputs = {"y": (TensorProto.FLOAT, ["rows", "length", 4])}
    return onnx_bytes(nodes, [], inputs=LENGTH, outputs=outputs)


def a_widening():
    """It takes a hundred times what a row has."""
    times = helper.make_tensor("times", TensorProto.INT64, [3], [1, 100, 1])
    nodes = [
        helper.make_node("Tile", ["x", "times"], ["wide"]),
        helper.make_node("Sigmoid", ["wide"], ["s"]),
        helper.make_node("ReduceMean", ["s", "axes"], ["y"], keepdims=0),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])
    return onnx_bytes(
        nodes, [times, axes], inputs=LENGTH, outputs={"y": (TensorProto.FLOAT, ["rows"])}
    )


def a_limited_one():
    """It has a hundred positions."""
    table = helper.make_tensor("table", TensorProto.FLOAT, [100], [0.5] * 100)
    constants = [helper.make_tensor(name, TensorProto.INT64, [], [1]) for name in ("second", "one")]
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "second"], ["length"]),
        helper.make_node("Sub", ["length", "one"], ["last"]),
        helper.make_node("Gather", ["table", "last"], ["moved"]),
        helper.make_node("Add", ["x", "moved"], ["y"]),
    ]
    outputs = {"y": (TensorProto.FLOAT, ["rows", "length", 4])}
    return onnx_bytes(nodes, [table, *constants], inputs=LENGTH, outputs=outputs)


def rows_as_long_as(length, *, rows=1):
    return a_tensor("x", "FP32", np.full((rows, length, 4), 0.5))


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.skipif(not PEAK_IS_TOLD, reason="this kernel does not tell")
@pytest.mark.parametrize(
    ("model", "power", "length"), [(an_attention, 2, 1_000), (a_widening, 1, 10_000)]
)
def test_rows_of_open_length_are_bounded_by_what_long_ones_take(model, power, length):
    room = Room(model(), run_bytes_max=RUN_BYTES)
    growth = PeakGrowth()
    with pytest.raises(Busy, match="BATCH_TOO_LARGE") as refused:
        room.infer(rows_as_long_as(length, rows=100))
    room.infer(rows_as_long_as(length, rows=int(refused.value.metadata["rows_max"])))
    assert RUN_BYTES / 8 < growth.bytes() <= 1.2 * RUN_BYTES

    with pytest.raises(Busy, match="BATCH_TOO_LARGE") as refused:
        room.infer(rows_as_long_as(100 * length))

    longest = rows_as_long_as(int(refused.value.metadata["row_bytes_max"]) // 16)
    growth = PeakGrowth()
    room.infer(longest)
    assert RUN_BYTES / 8 < growth.bytes() <= 1.2 * RUN_BYTES
    assert power == room.model.tried.longer_power


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.skipif(not PEAK_IS_TOLD, reason="this kernel does not tell")
def test_explanation_of_a_long_row_takes_no_more_than_a_run_may():
    room = Room(an_attention(), run_bytes_max=32 << 20)
    growth = PeakGrowth()

    answer = room.infer(rows_as_long_as(400), outputs=("attributions.x",))

    assert (1, 400, 4) == answer.attributions["attributions.x"].values.shape
    assert growth.bytes() < 1.5 * (32 << 20)


def test_model_that_takes_not_every_length_is_served_as_long_as_it_does():
    with capture_logs() as logged:
        room = Room(a_limited_one())

    assert ["info"] == [each["log_level"] for each in logged]
    assert (1, 100, 4) == room.infer(rows_as_long_as(100)).outputs["y"].values.shape


@pytest.mark.usefixtures("undisturbed")
def test_other_versions_inputs_warm_no_more_than_fits():
    room = Room(a_spreading_model(10), run_bytes_max=24_000)
    room.infer(rows_of(50))
    growth = PeakGrowth()

    with capture_logs() as logged:
        room.promote(2, a_spreading_model(1_000_000))

    assert growth.bytes() < 64_000_000
    assert not logged


def test_tensor_of_no_known_type_is_refused_when_it_is_loaded():
    with pytest.raises(Invalid, match="FORMAT"):
        Room(an_echo(TensorProto.FLOAT8E4M3FN))


@pytest.mark.parametrize("many", [1, FEW])
@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8"])
def test_nan_is_found_among_what_is_no_number_else(kind, many):
    largest = np.finfo(kind).max
    values = np.tile(np.array([[np.inf, -np.inf], [largest, -largest]], kind), (many, 1))

    assert not holds_nan(values)
    values[-1, 1] = np.nan
    assert holds_nan(values)
    assert holds_nan(values.T)
    assert not holds_nan(np.zeros((0, 2), kind))

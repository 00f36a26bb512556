# SPDX-License-Identifier: Apache-2.0
"""A file that the registry took once, and whose Div could end the process, is not loaded.

That both judge alike is in tests/contracts/test_divisions_are_judged_alike.py."""

import tracemalloc

import numpy as np
import pytest
from onnx import TensorProto, helper, load_model_from_string

from headrace.errors import Invalid
from headrace.protobuf_wire import bytes_field, number_field
from headrace_inference.adapters import onnx_runtime, onnx_wire
from headrace_inference.adapters.onnx_division import check_divisions
from headrace_inference.adapters.onnx_providers import providers
from headrace_inference.adapters.onnx_runtime import OnnxModelRuntime
from headrace_inference.testing import a_served_version, an_adder, onnx_bytes


def a_quotient(element):
    """ONNX bytes: y = a / b, of which nothing but the inputs tells the type of the division."""
    tensor = (element, ["rows"])
    nodes = [
        helper.make_node("Identity", ["a"], ["c"]),
        helper.make_node("Div", ["c", "b"], ["q"]),
        helper.make_node("Identity", ["q"], ["y"]),
    ]
    return onnx_bytes(nodes, [], inputs={"a": tensor, "b": tensor}, outputs={"y": tensor})


TABLE = 100_000


def a_table(element, name="table"):
    numbers = np.ones(TABLE, helper.tensor_dtype_to_np_dtype(element))
    return helper.make_tensor(name, element, [TABLE], numbers.tobytes(), raw=True)


def of_a_table(element, *, constant, branches):
    """ONNX bytes: y = what an index finds in a large table, by itself."""
    nodes = [
        helper.make_node("Gather", ["table", "at"], ["found"]),
        helper.make_node("Div", ["found", "found"], ["q"]),
        helper.make_node("Cast", ["q"], ["z"], to=TensorProto.FLOAT),
    ]
    weights = [] if constant else [a_table(element)]
    if constant:
        nodes.insert(0, helper.make_node("Constant", [], ["table"], value=a_table(element, "")))
    if branches:
        made = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
        names = ("then_branch", "else_branch")
        graphs = {name: helper.make_graph(nodes, name, [], made, weights) for name in names}
        weights, nodes = [], [helper.make_node("If", ["yes"], ["z"], **graphs)]
    inputs = {"at": (TensorProto.INT64, ["rows"]), "yes": (TensorProto.BOOL, [])}
    nodes.append(helper.make_node("Identity", ["z"], ["y"]))
    return onnx_bytes(nodes, weights, inputs=inputs, outputs={"y": (TensorProto.FLOAT, ["rows"])})


@pytest.fixture
def runtime():
    return OnnxModelRuntime(threads=1, run_bytes_max=1 << 30, providers=providers("cpu"))


def load(runtime, onnx):
    return runtime.load(onnx, a_served_version(1, onnx=onnx, features=()))


@pytest.mark.parametrize("element", [TensorProto.INT32, TensorProto.INT64])
def test_whole_numbers_divided_by_what_is_sent_are_not_loaded(runtime, element):
    with pytest.raises(Invalid, match="FORMAT") as refused:
        load(runtime, a_quotient(element))
    assert "only floats can be divided" in refused.value.metadata["problem"]


@pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.DOUBLE])
def test_floats_divided_by_what_is_sent_are_loaded(runtime, element):
    assert ["a", "b"] == [spec.name for spec in load(runtime, a_quotient(element)).inputs]


def test_file_without_a_division_asks_the_runtime_nothing():
    def ask(_):
        raise AssertionError

    check_divisions(an_adder(), ask)


def test_model_that_comes_back_is_not_looked_through_again(runtime, monkeypatch):
    load(runtime, a_quotient(TensorProto.FLOAT))
    looked_through = []
    monkeypatch.setattr(
        onnx_runtime, "check_divisions", lambda onnx, _: looked_through.append(onnx)
    )

    load(runtime, a_quotient(TensorProto.FLOAT))
    load(runtime, an_adder())

    assert [an_adder()] == looked_through


@pytest.mark.parametrize("branches", [False, True])
@pytest.mark.parametrize("constant", [False, True])
def test_types_are_asked_without_large_weights(runtime, constant, branches):
    """They would be in memory several times, beside what the budget counts."""
    asked_bytes = []

    def ask(model):
        asked_bytes.append(len(model))
        return runtime._types(model)

    check_divisions(of_a_table(TensorProto.DOUBLE, constant=constant, branches=branches), ask)
    assert asked_bytes
    assert max(asked_bytes) < TABLE

    with pytest.raises(Invalid, match="FORMAT"):
        check_divisions(of_a_table(TensorProto.INT64, constant=constant, branches=branches), ask)


def test_small_weights_are_told_for_shapes_are_worked_out_of_them(runtime):
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 2])
    nodes = [
        helper.make_node("Reshape", ["a", "shape"], ["b"]),
        helper.make_node("Div", ["b", "b"], ["q"]),
        helper.make_node("Identity", ["q"], ["y"]),
    ]
    tensor = (TensorProto.FLOAT, ["rows"])
    model = onnx_bytes(
        nodes, [shape], inputs={"a": tensor}, outputs={"y": (TensorProto.FLOAT, ["pairs", 2])}
    )
    asked = []

    check_divisions(model, lambda onnx: asked.append(onnx) or runtime._types(onnx))

    assert ["shape"] == [each.name for each in load_model_from_string(asked[0]).graph.initializer]


def a_quotient_by(*data):
    """ONNX bytes: y = a / b, whole numbers, where b has these fields of a TensorProto."""
    tensor = (TensorProto.INT64, ["rows"])
    nodes = [helper.make_node("Div", ["a", "b"], ["y"])]
    model = onnx_bytes(nodes, [], inputs={"a": tensor}, outputs={"y": tensor})
    weight = number_field(onnx_wire.TENSOR_TYPE, TensorProto.INT64) + b"".join(data)
    weight += bytes_field(onnx_wire.TENSOR_NAME, b"b")
    # A message that comes in parts is one (protobuf).
    return model + bytes_field(onnx_wire.MODEL_GRAPH, bytes_field(onnx_wire.GRAPH_WEIGHT, weight))


def packed(numbers):
    return bytes_field(onnx_wire.TENSOR_INT64S, numbers)


def ask_nothing(_):
    raise AssertionError


def test_millions_of_divisors_are_never_in_memory_at_once():
    """Packed, each is a byte of the file."""
    model = a_quotient_by(packed(b"\3" * 3_000_000))
    tracemalloc.start()
    try:
        check_divisions(model, ask_nothing)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak_bytes < 3 * len(model)


MINUS_ONE = b"\xff" * 9 + b"\1"


@pytest.mark.parametrize("last", [b"\0", MINUS_ONE, b"\x80\0"], ids=["0", "-1", "0 of two bytes"])
@pytest.mark.parametrize(
    "data",
    [
        lambda last: [packed(b"\3" * 25 + b"\xac\2" * 30 + last)],
        lambda last: [packed(b"\3"), packed(last)],
        lambda last: [
            number_field(onnx_wire.TENSOR_INT64S, 3) * 40,
            number_field(onnx_wire.TENSOR_INT64S, 0)[:-1] + last,
        ],
    ],
    ids=["packed", "in parts", "one by one"],
)
def test_divisor_is_found_wherever_it_stands(monkeypatch, data, last):
    monkeypatch.setattr(onnx_wire, "PIECE_NUMBERS", 16)
    with pytest.raises(Invalid, match="FORMAT") as refused:
        check_divisions(a_quotient_by(*data(last)), ask_nothing)
    assert "holds 0 or -1" in refused.value.metadata["problem"]


@pytest.mark.parametrize(
    "data",
    [
        packed(b"\3\x83"),
        packed(b"\3" + b"\xff" * 10 + b"\1"),
        bytes_field(onnx_wire.TENSOR_RAW, b"\3" * 7),
    ],
    ids=["cut", "too long", "raw and cut"],
)
def test_numbers_that_are_none_are_refused(data):
    with pytest.raises(Invalid, match="FORMAT"):
        check_divisions(a_quotient_by(data), ask_nothing)


def test_large_weight_of_more_dimensions_than_any_tensor_has_is_refused():
    sizes = bytes_field(onnx_wire.TENSOR_SIZES, b"\1" * 100_000)
    weight = number_field(onnx_wire.TENSOR_TYPE, TensorProto.FLOAT) + sizes
    weight += bytes_field(onnx_wire.TENSOR_NAME, b"w")
    more = bytes_field(onnx_wire.MODEL_GRAPH, bytes_field(onnx_wire.GRAPH_WEIGHT, weight))
    with pytest.raises(Invalid, match="FORMAT") as refused:
        check_divisions(a_quotient(TensorProto.FLOAT) + more, ask_nothing)
    assert "dimensions" in refused.value.metadata["problem"]

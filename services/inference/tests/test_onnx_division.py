# SPDX-License-Identifier: Apache-2.0
"""A file that the registry took once, and whose Div could end the process, is not loaded.

That both judge alike is in tests/contracts/test_divisions_are_judged_alike.py."""

import numpy as np
import pytest
from onnx import TensorProto, helper, load_model_from_string

from headrace.errors import Invalid
from headrace_inference.adapters import onnx_runtime
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
    return OnnxModelRuntime(threads=1, providers=providers("cpu"))


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

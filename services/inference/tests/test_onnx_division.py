# SPDX-License-Identifier: Apache-2.0
"""A file that the registry took once, and whose Div could end the process, is not loaded.

That both judge alike is in tests/contracts/test_divisions_are_judged_alike.py."""

import pytest
from onnx import TensorProto, helper

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

# SPDX-License-Identifier: Apache-2.0
"""One request must not end inference: the least int64 by -1 does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile

import onnx
import pytest
from onnx import TensorProto, helper

from headrace.errors import Invalid
from headrace_registry.adapters.acceptance_child import look_through
from headrace_registry.adapters.onnx_division import check_divisions

FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64
WHOLE = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
node, info = helper.make_node, helper.make_tensor_value_info
DIVIDES = node("Div", ["a", "b"], ["y"])


def a_model(
    *nodes: onnx.NodeProto,
    element: int = INT64,
    weights: Sequence[onnx.TensorProto] = (),
    sent: Sequence[str] = ("a", "b"),
) -> onnx.ModelProto:
    """It takes and gives [2] of a type."""
    graph = helper.make_graph(
        nodes or [DIVIDES],
        "graph",
        [info(name, element, [2]) for name in sent],
        [info("y", element, [2])],
        list(weights),
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def whole(name: str, *values: int, element: int = INT64) -> onnx.TensorProto:
    return helper.make_tensor(name, element, [len(values)], values)


def looked_through(model: onnx.ModelProto) -> None:
    with NamedTemporaryFile() as file:
        file.write(model.SerializeToString())
        file.flush()
        look_through(Path(file.name))


@pytest.mark.parametrize("element", WHOLE)
def test_whole_numbers_by_what_is_sent_are_refused(element: str) -> None:
    with pytest.raises(Invalid, match="only floats"):
        looked_through(a_model(element=getattr(TensorProto, element)))


LEAST_BY_MINUS_ONE = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.stdin.buffer.read())
kind = numpy.dtype(sys.argv[1])
for a, b in ((1, 1), (1, 9), (9, 1), (9, 9)):
    least, one = numpy.iinfo(kind).min, -1
    given = {"a": numpy.full(a, least, kind), "b": numpy.full(b, one, kind)}
    assert not session.run(None, given)[0].any()
"""


@pytest.mark.parametrize("element", ["INT32", "INT64"])
@pytest.mark.parametrize("fmod", [0, 1])
def test_remainder_that_is_taken_does_not_end_the_process(element: str, fmod: int) -> None:
    """A runtime of which this fails needs Mod to be refused as Div is."""
    model = a_model(
        node("Mod", ["a", "b"], ["y"], fmod=fmod), element=getattr(TensorProto, element)
    )
    looked_through(model)
    for each in (*model.graph.input, *model.graph.output):
        each.type.tensor_type.shape.dim[0].dim_param = each.name

    command = [sys.executable, "-c", LEAST_BY_MINUS_ONE, element.lower()]
    assert 0 == subprocess.run(command, input=model.SerializeToString(), check=False).returncode


@pytest.mark.parametrize("element", ["FLOAT", "DOUBLE", "FLOAT16"])
def test_floats_by_what_is_sent_are_sound(element: str) -> None:
    looked_through(a_model(element=getattr(TensorProto, element)))


@pytest.mark.parametrize("value", [0, -1])
def test_constant_with_zero_or_minus_one_is_refused(value: int) -> None:
    with pytest.raises(Invalid, match="holds 0 or -1"):
        looked_through(a_model(sent=["a"], weights=[whole("b", 3, value)]))


CONSTANTS = {
    "weight": [],
    "constant": [node("Constant", [], ["b"], value=whole("", 3, 2))],
    "number": [node("Constant", [], ["b"], value_int=3)],
    "numbers": [node("Constant", [], ["b"], value_ints=[3, -2])],
    "cast": [
        node("Constant", [], ["c"], value=whole("", 3, 2, element=INT32)),
        node("Cast", ["c"], ["b"], to=INT64),
    ],
    "another shape": [
        node("Constant", [], ["c"], value_int=3),
        node("Constant", [], ["zero"], value_ints=[0]),
        node("Unsqueeze", ["c", "zero"], ["d"]),
        node("Identity", ["d"], ["b"]),
    ],
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constant_without_them_is_sound(name: str) -> None:
    weights = [whole("b", 3, 2)] if name == "weight" else []

    looked_through(a_model(*CONSTANTS[name], DIVIDES, sent=["a"], weights=weights))


def test_constant_that_a_cast_makes_minus_one_is_refused() -> None:
    narrow = node("Cast", ["c"], ["b"], to=INT32)
    model = a_model(narrow, DIVIDES, element=INT32, sent=["a"], weights=[whole("c", 2**32 - 1, 2)])

    with pytest.raises(Invalid, match="holds 0 or -1"):
        looked_through(model)


def test_constant_that_was_a_float_is_refused() -> None:
    half = helper.make_tensor("c", FLOAT, [2], [0.5, 2.0])
    model = a_model(node("Cast", ["c"], ["b"], to=INT64), DIVIDES, sent=["a"], weights=[half])

    with pytest.raises(Invalid, match="only floats"):
        looked_through(model)


def in_if(*inner: onnx.NodeProto, element: int) -> list[onnx.NodeProto]:
    """Nodes that make `z` of a type that only the graph around tells."""
    made = [info("z", element, None)]
    branches = {
        name: helper.make_graph(inner, name, [], made) for name in ("then_branch", "else_branch")
    }
    yes = helper.make_tensor("", TensorProto.BOOL, [], [True])
    return [node("Constant", [], ["yes"], value=yes), node("If", ["yes"], ["y"], **branches)]


HIDDEN = [node("Div", ["a", "b"], ["q"]), node("Identity", ["q"], ["z"])]


def test_division_in_a_branch_is_found() -> None:
    with pytest.raises(Invalid, match="only floats"):
        looked_through(a_model(*in_if(*HIDDEN, element=INT64)))


def test_floats_in_a_branch_are_sound() -> None:
    looked_through(a_model(*in_if(*HIDDEN, element=FLOAT), element=FLOAT))


@pytest.mark.parametrize("hides", ["input", "input with a weight"])
def test_input_of_a_body_hides_the_constant_around_it(hides: str) -> None:
    """By the rule alone: the runtime would refuse some of these for reasons of its own."""
    body = helper.make_graph(
        [node("Div", ["a", "b"], ["z"])],
        "body",
        [info("b", INT64, None)],
        [info("z", INT64, None)],
        [whole("b", 3)] if hides == "input with a weight" else [],
    )
    scan = node("Scan", ["sent"], ["y"], body=body, num_scan_inputs=1)

    with pytest.raises(Invalid, match="only floats"):
        check_divisions(a_model(scan, sent=["a", "sent"], weights=[whole("b", 3)]))


def test_type_that_the_file_tells_wrongly_is_no_way_round() -> None:
    model = a_model(node("Div", ["a", "b"], ["q"]), node("Identity", ["q"], ["y"]))
    model.graph.value_info.append(info("q", FLOAT, [2]))

    with pytest.raises(Invalid):
        looked_through(model)


def test_shape_by_a_constant_is_sound() -> None:
    """As exporters write it: half of a dimension."""
    nodes = [
        node("Shape", ["a"], ["shape"]),
        node("Div", ["shape", "two"], ["half"]),
        node("Expand", ["half", "shape"], ["y"]),
    ]

    looked_through(a_model(*nodes, sent=["a"], weights=[whole("two", 2)]))


@pytest.mark.parametrize("operator", ["Normalizer", "LinearRegressor", "Scaler"])
def test_floats_of_an_operator_whose_type_is_not_inferred_are_sound(operator: str) -> None:
    more = {"LinearRegressor": {"coefficients": [1.0, 1.0]}}.get(operator, {})
    learnt = helper.make_node(operator, ["a"], ["p"], domain="ai.onnx.ml", **more)
    divides = [node("Div", ["p", "p"], ["q"]), node("Identity", ["q"], ["y"])]

    check_divisions(a_model(learnt, *divides, element=FLOAT, sent=["a"]))

# SPDX-License-Identifier: Apache-2.0
"""The registry takes no file that inference would not load for its divisions, nor the other way.

They read the file by different means: the registry has onnx, which inference must do without."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from headrace.errors import Invalid
from headrace_inference.adapters import onnx_division as of_inference
from headrace_inference.adapters.onnx_providers import providers
from headrace_inference.adapters.onnx_runtime import OnnxModelRuntime
from headrace_registry.adapters import onnx_division as of_registry

node, info = helper.make_node, helper.make_tensor_value_info
FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64
DIVIDES = node("Div", ["a", "b"], ["y"])
SOUND, BY_SENT, BY_BAD = None, "only floats can be divided", "by a constant that holds 0 or -1"


def a_model(
    *nodes: NodeProto,
    element: int = INT64,
    sent: Sequence[str] = ("a",),
    weights: Sequence[TensorProto] = (),
) -> onnx.ModelProto:
    """It takes and gives [2] of a type."""
    values = [[info(name, element, [2]) for name in names] for names in (sent, ["y"])]
    graph = helper.make_graph(nodes or [DIVIDES], "graph", *values, list(weights))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def whole(*values: int, name: str = "b", element: int = INT64) -> TensorProto:
    return helper.make_tensor(name, element, [len(values)], values)


def raw(*values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), "b")


def constant(name: str = "b", **value: object) -> NodeProto:
    return node("Constant", [], [name], **value)


def branching(*inner: NodeProto, made: int, around: Sequence[NodeProto] = ()) -> list[NodeProto]:
    """Nodes of which either branch makes `z` of a type."""
    branches = {
        name: helper.make_graph(inner, name, [], [info("z", made, None)])
        for name in ("then_branch", "else_branch")
    }
    yes = constant("yes", value=helper.make_tensor("", TensorProto.BOOL, [], [True]))
    return [*around, yes, node("If", ["yes"], ["y"], **branches)]


def looping(element: int) -> list[NodeProto]:
    """Nodes of a Loop that divides what it carries by what is around it, twice."""
    body = helper.make_graph(
        [node("Div", ["carried", "half"], ["next"]), node("Identity", ["go"], ["on"])],
        "body",
        [info("i", INT64, []), info("go", TensorProto.BOOL, []), info("carried", element, [2])],
        [info("on", TensorProto.BOOL, []), info("next", element, [2])],
    )
    trips = constant("trips", value_int=2)
    return [
        trips,
        node("Add", ["a", "a"], ["half"]),
        node("Loop", ["trips", "", "a"], ["y"], body=body),
    ]


INNER = [node("Div", ["a", "b"], ["q"]), node("Abs", ["q"], ["r"]), node("Div", ["r", "q"], ["z"])]
TWO = {"sent": ("a", "b")}
MODELS = {
    "floats": (a_model(element=FLOAT, **TWO), SOUND),
    "whole": (a_model(**TWO), BY_SENT),
    "unsigned": (a_model(element=TensorProto.UINT8, **TWO), BY_SENT),
    "by a weight": (a_model(weights=[whole(3, -2)]), SOUND),
    "by raw numbers": (a_model(weights=[raw(3, -2)]), SOUND),
    "by raw numbers with 0": (a_model(weights=[raw(3, 0)]), BY_BAD),
    "by a weight with 0": (a_model(weights=[whole(3, 0)]), BY_BAD),
    "by a weight with -1": (a_model(weights=[whole(3, -1)]), BY_BAD),
    "by small ones with -1": (
        a_model(element=TensorProto.INT8, weights=[whole(3, -1, element=TensorProto.INT8)]),
        BY_BAD,
    ),
    "by a number": (a_model(constant(value_int=3), DIVIDES), SOUND),
    "by the number -1": (a_model(constant(value_int=-1), DIVIDES), BY_BAD),
    "by numbers": (a_model(constant(value_ints=[3, -2]), DIVIDES), SOUND),
    "by numbers with 0": (a_model(constant(value_ints=[3, 0]), DIVIDES), BY_BAD),
    "by a constant": (a_model(constant(value=whole(3, 2, name="")), DIVIDES), SOUND),
    "by what a cast makes -1": (
        a_model(
            node("Cast", ["c"], ["b"], to=INT32),
            DIVIDES,
            element=INT32,
            weights=[whole(2**32 - 1, 2, name="c")],
        ),
        BY_BAD,
    ),
    "by what was a float": (
        a_model(
            node("Cast", ["c"], ["b"], to=INT64),
            DIVIDES,
            weights=[helper.make_tensor("c", FLOAT, [2], [0.5, 2.0])],
        ),
        BY_SENT,
    ),
    "by another shape": (
        a_model(
            constant("c", value_int=3),
            constant("zero", value_ints=[0]),
            node("Unsqueeze", ["c", "zero"], ["d"]),
            node("Identity", ["d"], ["b"]),
            DIVIDES,
        ),
        SOUND,
    ),
    "floats by floats that are worked out": (
        a_model(
            node("Cast", ["a"], ["f"], to=FLOAT),
            node("Sqrt", ["f"], ["g"]),
            node("Div", ["g", "f"], ["q"]),
            node("Cast", ["q"], ["y"], to=INT64),
        ),
        SOUND,
    ),
    "floats of a learnt operator": (
        a_model(
            helper.make_node("Normalizer", ["a"], ["p"], domain="ai.onnx.ml"),
            node("Div", ["p", "p"], ["q"]),
            node("Identity", ["q"], ["y"]),
            element=FLOAT,
        ),
        SOUND,
    ),
    "floats in a branch": (a_model(*branching(*INNER, made=FLOAT), element=FLOAT, **TWO), SOUND),
    "whole in a branch": (a_model(*branching(*INNER, made=INT64), **TWO), BY_SENT),
    "by a constant around a branch": (
        a_model(*branching(node("Div", ["a", "b"], ["z"]), made=INT64), weights=[whole(3, 2)]),
        SOUND,
    ),
    "floats that are worked out around a branch": (
        a_model(
            *branching(
                node("Div", ["f", "f"], ["q"]),
                node("Cast", ["q"], ["z"], to=INT64),
                made=INT64,
                around=[node("Cast", ["a"], ["f"], to=FLOAT)],
            )
        ),
        SOUND,
    ),
    "floats in a loop": (a_model(*looping(FLOAT), element=FLOAT), SOUND),
    "whole in a loop": (a_model(*looping(INT64)), BY_SENT),
}


def types_of(model: bytes) -> dict[str, str]:
    return OnnxModelRuntime(threads=1, run_bytes_max=1 << 30, providers=providers("cpu"))._types(
        model
    )


@pytest.mark.parametrize("name", MODELS)
def test_division_is_judged_alike(name: str) -> None:
    model, wanted = MODELS[name]
    encoded = model.SerializeToString()

    found = []
    for judge in (
        lambda: of_registry.check_divisions(model),
        lambda: of_inference.check_divisions(encoded, types_of),
    ):
        try:
            judge()
        except Invalid as refused:
            found.append(refused.metadata["problem"])
        else:
            found.append("")

    assert found[0] == found[1]
    assert (wanted or "") in found[0]
    assert bool(wanted) == bool(found[0])

# SPDX-License-Identifier: Apache-2.0
"""Hostile files: each ends in a reason or in the end of the child, and none is taken as sound.

Files that may end their process have a child each; the others share one, under the same limits.
"""

from __future__ import annotations

import base64
import pickle
import random
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from headrace.errors import Busy, HeadraceError, Invalid
from headrace.protobuf_wire import bytes_field
from headrace_registry.adapters import acceptance_child, child_acceptor
from headrace_registry.adapters.acceptance_child import limit, look_through
from headrace_registry.adapters.child_acceptor import ChildAcceptor
from headrace_registry.adapters.onnx_rules import check_model
from headrace_registry.domain.acceptance import Acceptance
from headrace_registry.domain.signature import TensorSignature
from headrace_registry.testing import a_file, an_onnx_file

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
ROWS = ("x", FLOAT, ["rows", 3])
node = helper.make_node


def a_model(
    *nodes: onnx.NodeProto,
    inputs: Sequence[Any] = (ROWS,),
    outputs: Sequence[Any] = (("y", FLOAT, ["rows", 3]),),
    weights: Sequence[onnx.TensorProto] = (),
    opset: int = 17,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes or [node("Relu", ["x"], ["y"])],
        "graph",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*each) for each in outputs],
        list(weights),
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(each, 1) for each in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def whole(name: str, *values: int) -> onnx.TensorProto:
    return helper.make_tensor(name, INT64, [len(values)], values)


def outcome(file: Path) -> str:
    """The reason, or `sound`, or `unsound` for a file whose gate will fail."""
    try:
        found = look_through(file)
    except HeadraceError as err:
        return err.reason
    except MemoryError:
        return "VALIDATION_LIMIT"
    return "sound" if all(each.passed for each in found.findings) else "unsound"


def problem(file: Path) -> str:
    """In which words it is refused, for what several steps would refuse."""
    with pytest.raises(Invalid, match="FORMAT") as refused:
        look_through(file)
    return str(refused.value.metadata["problem"])


Judge = Callable[[Path], str]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """A process with the limits of the child; its death fails the test that asked."""
    file = tmp_path_factory.mktemp("room") / "model.onnx"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=limit) as pool:

        def judged(data: bytes, by: Judge = outcome) -> str:
            file.write_bytes(data)
            return pool.submit(by, file).result()

        yield judged


def accepted(data: bytes, acceptor: ChildAcceptor | None = None) -> Acceptance:
    with a_file(data) as file:
        return (acceptor or ChildAcceptor()).accept(file)


def test_sound_file_is_accepted_with_its_signature_and_cost() -> None:
    found = accepted(a_model().SerializeToString())

    assert (TensorSignature("x", "FP32", (-1, 3)),) == found.signature.inputs
    same, finite, cost = found.findings
    assert f"took {found.latency_ms:.2f} ms" in cost.sentence
    assert all((same.passed, finite.passed, cost.passed))
    assert ("the same", " ms, at most ") == (
        same.sentence.split("gave ")[1][:8],
        cost.sentence[cost.sentence.index(" ms") : cost.sentence.index("most") + 5],
    )


ELEMENTS = (
    "BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FLOAT16 BFLOAT16 FLOAT DOUBLE STRING"
)


@pytest.mark.parametrize("element", ELEMENTS.split())
def test_golden_inputs_are_there_for_every_type(tmp_path: Path, element: str) -> None:
    tensor = (getattr(TensorProto, element), ["rows", 3])
    model, file = a_model(X, inputs=[("x", *tensor)], outputs=[("y", *tensor)]), tmp_path / "m.onnx"
    file.write_bytes(model.SerializeToString())

    same, finite, cost = look_through(file).findings
    assert same.passed
    assert finite.passed
    assert "Golden inputs took" in cost.sentence


def a_bfloat16(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """It takes and gives bfloat16, and computes in float32."""
    tensor = (TensorProto.BFLOAT16, ["rows", 3])
    return a_model(
        node("Cast", ["x"], ["x32"], to=FLOAT),
        *nodes,
        node("Cast", ["y32"], ["y"], to=TensorProto.BFLOAT16),
        inputs=[("x", *tensor)],
        outputs=[("y", *tensor)],
    )


X = node("Identity", ["x"], ["y"])
UNSOUND = {
    "nan": a_model(node("Sub", ["x", "x"], ["d"]), node("Div", ["d", "d"], ["y"])),
    "infinite": a_model(node("Sub", ["x", "x"], ["d"]), node("Reciprocal", ["d"], ["y"])),
    "bfloat16 nan": a_bfloat16(
        node("Sub", ["x32", "x32"], ["d"]), node("Div", ["d", "d"], ["y32"])
    ),
    "bfloat16 random": a_bfloat16(node("RandomNormalLike", ["x32"], ["y32"])),
    "random": a_model(node("RandomNormalLike", ["x"], ["y"])),
    "does not run": a_model(
        node("Gather", ["x", "far"], ["y"]),
        inputs=[("x", FLOAT, [2, 3])],
        outputs=[("y", FLOAT, [1, 3])],
        weights=[whole("far", 99)],
    ),
}


@pytest.mark.parametrize(("kind", "reason"), [("BFLOAT16", "FORMAT"), ("FLOAT", "sound")])
def test_texts_and_bfloat16_are_in_no_model_together(tmp_path: Path, kind: str, reason: str):
    """The runtime's own values, which bfloat16 needs, are of no texts."""
    number = getattr(TensorProto, kind)
    identities = [node("Identity", [each], [f"{each}-same"]) for each in ("text", "number")]
    model = a_model(
        *identities,
        inputs=[("text", TensorProto.STRING, ["n"]), ("number", number, ["n"])],
        outputs=[("text-same", TensorProto.STRING, ["n"]), ("number-same", number, ["n"])],
    )
    onnx.save(model, file := tmp_path / "model.onnx")

    assert reason == outcome(file)


@pytest.mark.parametrize("name", UNSOUND)
def test_file_whose_answers_cannot_be_served_is_kept_as_unsound(room, name: str) -> None:
    assert "unsound" == room(UNSOUND[name].SerializeToString())


def a_loop(trips: str | None, **more: Any) -> onnx.ModelProto:
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Add", ["sum", "sum"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("trip", INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, None),
        ],
    )
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    weights = [yes, *more.pop("weights", [])]
    return a_model(
        node("Loop", [trips or "", "yes", "x"], ["y"], body=body), weights=weights, **more
    )


def in_if(inner: onnx.NodeProto, **more: Any) -> onnx.ModelProto:
    """The node in both branches of an If, where a walk over the outer graph would miss it."""
    made = helper.make_tensor_value_info(inner.output[0], FLOAT, None)
    branches = {
        name: helper.make_graph([inner], name, [], [made])
        for name in ("then_branch", "else_branch")
    }
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    weights = [yes, *more.pop("weights", [])]
    return a_model(node("If", ["yes"], ["y"], **branches), weights=weights, **more)


def deep(depth: int) -> onnx.ModelProto:
    made = helper.make_tensor_value_info("y", FLOAT, None)
    inner = node("Identity", ["x"], ["y"])
    for _ in range(depth):
        graph = helper.make_graph([inner], "g", [], [made])
        inner = node("If", ["yes"], ["y"], then_branch=graph, else_branch=graph)
        if len(inner.SerializeToString()) > 1 << 20:
            break
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    return a_model(inner, weights=[yes])


def changed(model: onnx.ModelProto, **fields: Any) -> onnx.ModelProto:
    for name, value in fields.items():
        setattr(model, name, value)
    return model


def doubled_name() -> onnx.ModelProto:
    return a_model(node("Relu", ["x"], ["y"]), node("Abs", ["x"], ["y"]))


def a_function() -> onnx.ModelProto:
    model = a_model(helper.make_node("Mine", ["x"], ["y"], domain="mine"), domains=["mine"])
    body = [helper.make_node("Mine", ["a"], ["b"], domain="mine")]
    opsets = [helper.make_opsetid("mine", 1)]
    model.functions.append(helper.make_function("mine", "Mine", ["a"], ["b"], body, opsets))
    return model


def with_text(value: bytes, place: str) -> onnx.ModelProto:
    model = a_model(weights=[whole("w", 1)])
    graph, text = model.graph, value.decode("latin-1")
    if place == "weight":
        tensor = graph.initializer.add(name="t", data_type=TensorProto.STRING, dims=[1])
        tensor.string_data.append(value)
    elif place == "attribute":
        attribute = graph.node[0].attribute.add(name="note", type=onnx.AttributeProto.STRING)
        attribute.s = value
    elif place == "metadata":
        model.metadata_props.add(key="sklearn", value=text)
    elif place == "metadata of a node":
        graph.node[0].metadata_props.add(key="origin", value=text)
    elif place == "name":
        graph.name = text
    else:
        told = {"model": model, "graph": graph, "node": graph.node[0], "input": graph.input[0],
                "tensor": graph.initializer[0]}  # fmt: skip
        told[place.removeprefix("doc of a ")].doc_string = text
    return model


BIG = whole("n", 10**12)
FLAG = ("flag", TensorProto.BOOL, [])
ONE_ROW = ("x", FLOAT, [1])
OPEN = [("y", FLOAT, ["m"])]


def a_branch(chosen_by: str, *before: onnx.NodeProto, **more: Any) -> onnx.ModelProto:
    """Of its branches the one that the golden inputs do not reach asks for four terabytes."""
    small = node("Identity", ["x"], ["small"])
    large = node("ConstantOfShape", ["n"], ["large"])
    branches = {
        name: helper.make_graph(
            [inner], name, [], [helper.make_tensor_value_info(inner.output[0], FLOAT, None)]
        )
        for name, inner in (("then_branch", small), ("else_branch", large))
    }
    return a_model(
        *before, node("If", [chosen_by], ["y"], **branches), outputs=OPEN, weights=[BIG], **more
    )


def a_doubling(goes_on: str, inside: Sequence[onnx.NodeProto], *before: onnx.NodeProto) -> Any:
    """A Loop that doubles what it holds, as often as what is sent lets it."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [*inside, node("Concat", ["held", "held"], ["doubled"], axis=0)],
        "body",
        [info("trip", INT64, []), info("go", TensorProto.BOOL, []), info("held", FLOAT, None)],
        [info("on", TensorProto.BOOL, []), info("doubled", FLOAT, None)],
    )
    loop = node("Loop", ["trips", goes_on, "x"], ["y"], body=body)
    weights = [
        helper.make_tensor("trips", INT64, [], [9_999]),
        helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
        helper.make_tensor("limit", FLOAT, [], [2.0]),
    ]
    return a_model(*before, loop, inputs=[ONE_ROW, FLAG], outputs=OPEN, weights=weights)


def sized_by_what_is_sent(operator: str, inputs: Sequence[str], opset: int, **more: Any) -> Any:
    """`s` is sent; the operator makes something of that size."""
    given = {
        "x": ONE_ROW,
        "s": ("s", INT64, more.pop("shape", [])),
        "zero": ("zero", FLOAT, []),
        "one": ("one", FLOAT, []),
    }
    names = dict.fromkeys(inputs)
    return a_model(
        node(operator, inputs, ["y"], **more),
        inputs=[given[name] for name in names],
        outputs=OPEN,
        opset=opset,
    )


def frames(step: str, length: str) -> Any:
    """As many spectra, and as long, as two numbers say."""
    return a_model(
        node("STFT", ["signal", step, "", length], ["y"]),
        inputs=[("signal", FLOAT, [1, "samples", 1]), ("s", INT64, [])],
        outputs=[("y", FLOAT, [1, "frames", "bins", 2])],
        weights=[helper.make_tensor("one", INT64, [], [1])],
    )


PICKLED = pickle.dumps({"a": [1]}, protocol=4)
ZIPPED = b"PK\x03\x04" + bytes(60)
PICKLED_TEXT = pickle.dumps({"a": [1]}, protocol=0)
SIZES = {"s": ("s", INT64, [1])}
REFUSED: dict[str, tuple[onnx.ModelProto, tuple[str, ...]]] = {
    "custom domain": (
        a_model(helper.make_node("Evil", ["x"], ["y"], domain="com.evil"), domains=["com.evil"]),
        ("OPSET",),
    ),
    "domain of an unused import": (a_model(domains=["com.evil"]), ("OPSET",)),
    "microsoft's own operators": (
        a_model(
            helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft"),
            domains=["com.microsoft"],
        ),
        ("OPSET",),
    ),
    "opset of the far future": (a_model(opset=10**9), ("OPSET",)),
    "opset below one": (a_model(opset=0), ("OPSET", "FORMAT")),
    "function that calls itself": (a_function(), ("OPSET",)),
    "ir of the far future": (changed(a_model(), ir_version=10**6), ("FORMAT",)),
    "unknown operator": (a_model(node("Nonsense", ["x"], ["y"])), ("FORMAT",)),
    "cycle": (
        a_model(
            node("Add", ["x", "b"], ["a"]),
            node("Add", ["a", "x"], ["b"]),
            node("Identity", ["b"], ["y"]),
        ),
        ("FORMAT",),
    ),
    "doubled names": (doubled_name(), ("FORMAT",)),
    "output of nobody": (a_model(node("Relu", ["x"], ["z"])), ("FORMAT",)),
    "input of nobody": (a_model(node("Relu", ["nobody"], ["y"])), ("FORMAT",)),
    "two types for one name": (
        a_model(X, outputs=[("y", INT64, ["rows", 3])]),
        ("FORMAT",),
    ),
    "no type": (a_model(X, inputs=[("x", 0, [1])]), ("FORMAT",)),
    "weight shorter than it says": (
        a_model(
            node("Add", ["x", "w"], ["y"]),
            weights=[TensorProto(name="w", data_type=FLOAT, dims=[3], raw_data=b"1234")],
        ),
        ("FORMAT",),
    ),
    "weight of an unknown type": (
        a_model(X, weights=[TensorProto(name="w", data_type=77, dims=[1], raw_data=b"1234")]),
        ("FORMAT",),
    ),
    "expand to what is sent": (
        a_model(
            node("Expand", ["x", "s"], ["y"]),
            inputs=[("x", FLOAT, [1]), SIZES["s"]],
            outputs=[("y", FLOAT, ["n"])],
        ),
        ("FORMAT",),
    ),
    "expand to what is computed from it": (
        a_model(
            node("Mul", ["s", "s"], ["t"]),
            node("Expand", ["x", "t"], ["y"]),
            inputs=[("x", FLOAT, [1]), SIZES["s"]],
            outputs=[("y", FLOAT, ["n"])],
        ),
        ("FORMAT",),
    ),
    "tile as often as is sent": (
        a_model(
            node("Tile", ["x", "s"], ["y"]),
            inputs=[("x", FLOAT, [1]), SIZES["s"]],
            outputs=[("y", FLOAT, ["n"])],
        ),
        ("FORMAT",),
    ),
    "range to what is sent": (
        a_model(
            node("Range", ["zero", "s", "one"], ["y"]),
            inputs=[("s", INT64, [])],
            outputs=[("y", INT64, ["n"])],
            weights=[helper.make_tensor(n, INT64, [], [v]) for n, v in (("zero", 0), ("one", 1))],
        ),
        ("FORMAT",),
    ),
    "expand hidden in a branch": (
        in_if(
            node("Expand", ["x", "s"], ["z"]),
            inputs=[("x", FLOAT, [1]), SIZES["s"]],
            outputs=[("y", FLOAT, ["n"])],
        ),
        ("FORMAT",),
    ),
    "custom operator hidden in a branch": (
        in_if(helper.make_node("Evil", ["x"], ["z"], domain="com.evil"), domains=["com.evil"]),
        ("OPSET",),
    ),
    "endless loop": (a_loop(None), ("FORMAT",)),
    "loop of 10^12": (a_loop("n", weights=[whole("n", 10**12)]), ("FORMAT",)),
    "loop as often as is sent": (
        a_loop("s", inputs=[ROWS, SIZES["s"]]),
        ("FORMAT",),
    ),
    **{
        f"size that is sent to {operator}": (
            sized_by_what_is_sent(operator, inputs, opset, **more),
            ("FORMAT",),
        )
        for operator, inputs, opset, more in (
            ("HannWindow", ["s"], 17, {}),
            ("HammingWindow", ["s"], 17, {}),
            ("BlackmanWindow", ["s"], 17, {}),
            ("CenterCropPad", ["x", "s"], 18, {"shape": [1]}),
            ("MelWeightMatrix", ["s", "s", "s", "zero", "one"], 17, {}),
            ("AffineGrid", ["x", "s"], 20, {"shape": [4]}),
        )
    },
    "frames as far apart as is sent": (frames("s", "one"), ("FORMAT",)),
    "frames as long as is sent": (frames("one", "s"), ("FORMAT",)),
    "branch that is sent": (a_branch("flag", inputs=[ONE_ROW, FLAG]), ("FORMAT",)),
    "branch by chance": (
        a_branch(
            "rare",
            node("RandomUniform", [], ["dice"], shape=[1]),
            node("Less", ["dice", "x"], ["rare"]),
            inputs=[ONE_ROW],
        ),
        ("FORMAT",),
    ),
    "branch by chance alone": (
        a_branch(
            "rare",
            node("RandomUniform", [], ["dice"], shape=[1]),
            node("Cast", ["dice"], ["rare"], to=TensorProto.BOOL),
            inputs=[ONE_ROW],
        ),
        ("FORMAT",),
    ),
    "loop that goes on when that is sent": (
        a_doubling("go_in", [node("Identity", ["go"], ["on"])], node("Not", ["flag"], ["go_in"])),
        ("FORMAT",),
    ),
    "loop that goes on by what it holds": (
        a_doubling(
            "yes",
            [
                node("ReduceMax", ["held"], ["most"], keepdims=0),
                node("Greater", ["most", "limit"], ["on"]),
            ],
        ),
        ("FORMAT",),
    ),
    "loop that goes on when that is sent, from inside": (
        a_doubling("yes", [node("Not", ["flag"], ["on"])]),
        ("FORMAT",),
    ),
    "pickle in a weight": (with_text(PICKLED, "weight"), ("PICKLE",)),
    "pickle in an attribute": (with_text(PICKLED, "attribute"), ("PICKLE", "FORMAT")),
    **{
        f"pickle in the {place}": (with_text(PICKLED_TEXT, place), ("PICKLE",))
        for place in (
            "metadata",
            "metadata of a node",
            "name",
            *(f"doc of a {what}" for what in ("model", "graph", "node", "input", "tensor")),
        )
    },
    "pickle in base64": (with_text(base64.b64encode(PICKLED), "metadata"), ("PICKLE",)),
    "zip in a weight": (with_text(ZIPPED, "weight"), ("PICKLE",)),
    "zip in base64": (with_text(base64.b64encode(ZIPPED), "metadata"), ("PICKLE",)),
    "pickle behind a blank": (with_text(b" " + PICKLED_TEXT, "metadata"), ("PICKLE",)),
    "pickle that is cut": (with_text(PICKLED[:-1], "weight"), ("PICKLE",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_file_is_refused_with_its_reason(room, name: str) -> None:
    model, reasons = REFUSED[name]

    assert room(model.SerializeToString()) in reasons


@pytest.mark.parametrize("size", [2**62, 2**31, -7])
def test_size_of_an_input_is_bounded(room, size: int) -> None:
    model = a_model(X, inputs=[("x", FLOAT, [size])])

    told = room(model.SerializeToString(), problem)
    assert "has too many dimensions, or one too large or negative" == told


def a_weight_of(*sizes: int) -> onnx.ModelProto:
    return a_model(X, weights=[TensorProto(name="w", data_type=FLOAT, dims=sizes)])


@pytest.mark.parametrize("sizes", [(2**31, 2**31), (2**15, 2**15), (0, 2**31), (-1,)])
def test_sizes_of_a_weight_are_bounded(room, sizes: tuple[int, ...]) -> None:
    """Without elements it would be sound, whatever its other sizes."""
    told = room(a_weight_of(*sizes).SerializeToString(), problem)

    assert f"a weight has the dimensions {list(sizes)}" == told


@pytest.mark.parametrize("sizes", [(2**14, 2**15), (0, 2**31 - 1)])
def test_weight_may_be_as_large_as_its_bounds(sizes: tuple[int, ...]) -> None:
    check_model(a_weight_of(*sizes))


def test_refusal_in_the_runtimes_words_tells_no_place_of_its_own() -> None:
    told = []
    matching = node("RegexFullMatch", ["x"], ["y"], pattern="x{1000000}")
    sized = {"inputs": [("x", TensorProto.STRING, [2])], "outputs": [("y", TensorProto.BOOL, [2])]}
    misfit = helper.make_tensor("w", TensorProto.INT64, [3], [1, 2, 3])
    for model in (
        a_model(matching, opset=20, **sized),
        a_model(node("Add", ["x", "w"], ["y"]), weights=[misfit]),
    ):
        with pytest.raises(Invalid, match="FORMAT") as refused:
            accepted(model.SerializeToString())
        told.append(refused.value.metadata["problem"])

    assert all(told)
    assert not [each for each in told if "onnxruntime_src" in each or "/proc/" in each]


def test_refusal_in_the_runtimes_words_that_are_no_text_is_told_as_format() -> None:
    weight = helper.make_tensor("w", FLOAT, [7], [0.0] * 7)
    model = a_model(node("Add", ["x", "w"], ["y"], name="na_me"), weights=[weight])

    with pytest.raises(Invalid, match="FORMAT"):
        accepted(model.SerializeToString().replace(b"na_me", b"na\xffme"))


LOCATIONS = ("../weights", "/etc/passwd", "junk/../../x", "\\\\host\\share", "a\x00b", "file:///x",
             "*/_ORT_MEM_ADDR_/*", "link", "weights.bin")  # fmt: skip


@pytest.mark.parametrize("location", LOCATIONS)
def test_weights_elsewhere_are_refused_whatever_they_are_called(room, location: str) -> None:
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[3])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    model = a_model(node("Add", ["x", "w"], ["y"]), weights=[tensor])

    assert "EXTERNAL_DATA" == room(model.SerializeToString())


def a_network() -> bytes:
    weight = helper.make_tensor("w", FLOAT, [3, 3], np.eye(3, dtype=np.float32).ravel())
    layers = [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])]
    return a_model(*layers, weights=[weight]).SerializeToString()


def broken() -> list[bytes]:
    """Cut at every 64th, then bits turned over, by one seed."""
    data, chance = a_network(), random.Random(7)
    cuts = [data[: len(data) * part // 64] for part in range(64)]
    flips = []
    for _ in range(200):
        turned = bytearray(data)
        for _ in range(chance.randint(1, 8)):
            turned[chance.randrange(len(turned))] ^= 1 << chance.randrange(8)
        flips.append(bytes(turned))
    return [*cuts, *flips]


def test_broken_files_end_in_a_reason_or_are_models_still(room) -> None:
    found = [room(each) for each in broken()]

    assert {"sound", "unsound", "FORMAT", "OPSET", "EXTERNAL_DATA", "VALIDATION_LIMIT"} >= {*found}
    assert ["FORMAT"] * 64 == found[:64]
    assert 100 < sum(each not in ("sound", "unsound") for each in found)


BOMBS = {
    "texts that double": a_model(
        *(node("StringConcat", [f"t{at}", f"t{at}"], [f"t{at + 1}"]) for at in range(40)),
        node("Identity", ["t40"], ["y"]),
        inputs=[("t0", TensorProto.STRING, [1])],
        outputs=[("y", TensorProto.STRING, [1])],
        opset=20,
    ),
    "constant of 10^12": a_model(
        node("ConstantOfShape", ["n"], ["y"]),
        outputs=[("y", FLOAT, ["n"])],
        weights=[whole("n", 10**12)],
    ),
    "tile of tiles": a_model(
        node("Expand", ["x", "n"], ["a"]),
        node("Expand", ["a", "m"], ["y"]),
        inputs=[("x", FLOAT, [1])],
        outputs=[("y", FLOAT, ["n", "m"])],
        weights=[whole("n", 1, 1 << 20), whole("m", 1 << 12, 1 << 20)],
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_file_that_needs_too_much_ends_its_child_alone(name: str) -> None:
    with pytest.raises(Invalid, match="VALIDATION_LIMIT"):
        accepted(BOMBS[name].SerializeToString())


def test_file_that_is_too_large_for_the_runtime_to_load_is_no_other_format(
    tmp_path: Path, monkeypatch
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise RuntimeError("Load model from /proc/self/fd/0 failed:std::bad_alloc")

    monkeypatch.setattr(acceptance_child.ort, "InferenceSession", load)
    onnx.save(a_model(), file := tmp_path / "model.onnx")

    assert "VALIDATION_LIMIT" == outcome(file)


def test_file_nested_beyond_reason_is_refused(room) -> None:
    assert room(deep(60).SerializeToString()) in ("FORMAT", "sound")


@pytest.mark.parametrize("said", ["b'x' * (2 << 20)", "b'{}'", "b''", 'b\'{"refused": "EVIL"}\''])
def test_answer_of_a_child_that_was_taken_over_is_not_believed(monkeypatch, said: str) -> None:
    monkeypatch.setattr(child_acceptor, "CHILD", "this")
    run = [sys.executable, "-c", f"import sys; sys.stdin.read(); sys.stdout.buffer.write({said})"]
    real = child_acceptor.subprocess
    fake = types.SimpleNamespace(
        **{name: getattr(real, name) for name in ("PIPE", "DEVNULL")},
        Popen=lambda _, **more: real.Popen(run, **more),
    )
    monkeypatch.setattr(child_acceptor, "subprocess", fake)

    with pytest.raises(Invalid, match="VALIDATION_LIMIT"):
        accepted(b"data")


def test_file_that_waits_too_long_for_another_is_sent_away(monkeypatch) -> None:
    acceptor = ChildAcceptor()
    monkeypatch.setattr(child_acceptor, "WAIT_S_MAX", 0.01)

    def answer(file: IO[bytes]) -> tuple[int, bytes]:
        with pytest.raises(Busy, match="QUEUE_FULL"):
            acceptor.accept(file)
        return 1, b""

    monkeypatch.setattr(child_acceptor, "_answer", answer)
    with pytest.raises(Invalid, match="VALIDATION_LIMIT"):
        accepted(b"data", acceptor)


@pytest.mark.parametrize("data", [b"", b"x"])
def test_file_that_is_no_model_is_refused_by_the_child(data: bytes) -> None:
    with pytest.raises(Invalid, match="FORMAT"):
        accepted(data)


def test_child_cannot_write_into_the_file(monkeypatch) -> None:
    monkeypatch.setattr(child_acceptor, "CHILD", "this")
    run = [sys.executable, "-c", "import os; os.write(0, b'evil')"]
    real = child_acceptor.subprocess
    fake = types.SimpleNamespace(
        **{name: getattr(real, name) for name in ("PIPE", "DEVNULL")},
        Popen=lambda _, **more: real.Popen(run, **more),
    )
    monkeypatch.setattr(child_acceptor, "subprocess", fake)

    with a_file(b"data") as file:
        with pytest.raises(Invalid, match="exit code 1"):
            ChildAcceptor().accept(file)
        file.seek(0)
        assert b"data" == file.read()


def raw_model(nodes: bytes) -> bytes:
    """A sound model with these bytes in its graph."""
    return an_onnx_file(graph=nodes)


def a_relu(taken: str, given: str) -> bytes:
    names = bytes_field(1, taken.encode()) + bytes_field(2, given.encode())
    return bytes_field(1, names + bytes_field(4, b"Relu"))


def test_file_with_a_million_nodes_is_refused(room) -> None:
    assert "too many fields" in room(raw_model(a_relu("x", "y") * 1_000_000), problem)


@pytest.fixture(scope="module")
def chain() -> bytes:
    """Of 100,000 nodes, which one more makes too many."""
    steps = (a_relu(f"x{at}", f"x{at + 1}") for at in range(100_000))
    return b"".join(steps)


def test_file_with_more_nodes_than_may_be_is_refused(room, chain: bytes) -> None:
    told = room(raw_model(a_relu("x", "x0") + chain), problem)

    assert "there are 100001 nodes, at most 100000 are taken" == told


def test_nodes_may_be_as_many_as_their_bound(chain: bytes) -> None:
    check_model(onnx.ModelProto.FromString(raw_model(chain)))


def test_file_nested_ten_thousand_deep_is_refused(room) -> None:
    nested = b""
    for _ in range(10_000):
        nested = bytes_field(1, bytes_field(5, bytes_field(6, nested)))

    assert "FORMAT" == room(raw_model(nested))


def test_names_that_are_no_text_are_refused(room) -> None:
    wrong = bytes_field(
        1, bytes_field(1, b"\xff\xfe") + bytes_field(2, b"y") + bytes_field(4, b"Relu")
    )

    assert "FORMAT" == room(raw_model(wrong))


def test_containers_that_pass_for_a_model_are_refused(room) -> None:
    for container in (PICKLED, b"PK\x03\x04" + b"\x00" * 60, b"\x1f\x8b" + b"\x00" * 60):
        assert "FORMAT" == room(container)


def test_loop_that_ends_by_its_count_is_sound(room) -> None:
    loop = a_loop("n", weights=[whole("n", 3)])

    assert "sound" == room(loop.SerializeToString())


def test_branch_that_the_shape_of_what_is_sent_chooses_is_sound(room) -> None:
    same = [node("Shape", ["x"], ["shape"]), node("ReduceMax", ["shape"], ["most"], keepdims=0),
            node("Less", ["most", "bound"], ["few"])]  # fmt: skip
    made = helper.make_tensor_value_info("z", FLOAT, None)
    graph = helper.make_graph([node("Identity", ["x"], ["z"])], "branch", [], [made])
    branching = node("If", ["few"], ["y"], then_branch=graph, else_branch=graph)
    bound = helper.make_tensor("bound", INT64, [], [9])

    model = a_model(*same, branching, weights=[bound])
    assert "sound" == room(model.SerializeToString())


@pytest.mark.parametrize("hidden", [PICKLED, ZIPPED, b"words"])
def test_field_that_onnx_does_not_have_is_refused(room, hidden: bytes) -> None:
    model, unknown = a_model(), bytes_field(1023, hidden)
    graph = model.graph.SerializeToString()
    of_value = bytes_field(11, unknown)

    for data in (unknown, bytes_field(7, unknown), bytes_field(7, graph + of_value)):
        assert "FORMAT" == room(model.SerializeToString() + data)


def test_text_that_a_later_one_replaces_is_looked_at(room) -> None:
    replaced = bytes_field(6, ZIPPED) + bytes_field(6, b"words")

    assert "PICKLE" == room(a_model().SerializeToString() + replaced)


def test_text_in_the_place_of_a_number_is_looked_at(room) -> None:
    assert "PICKLE" == room(a_model().SerializeToString() + bytes_field(5, ZIPPED))


def test_weights_that_begin_as_a_pickle_does_are_sound(room) -> None:
    raw = helper.make_tensor("w", TensorProto.UINT8, [len(PICKLED)], PICKLED, raw=True)

    model = a_model(weights=[raw])
    assert "sound" == room(model.SerializeToString())

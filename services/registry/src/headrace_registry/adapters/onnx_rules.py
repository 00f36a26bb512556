# SPDX-License-Identifier: Apache-2.0
"""What an ONNX model may hold before a runtime sees it; FAULTS section 9 is the list.

Sizes are what a caller must not choose: a tensor whose size depends on the values that a caller
sends (not on their shape) could ask for any amount of memory at any later request, so no run at
the door would find it. Nor may those values, or chance, choose what runs: the run at the door would
miss what is chosen later. Runs in the child process only: the parsed file is hostile until proven.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from mmap import mmap

import onnx
from google.protobuf.descriptor import FieldDescriptor

from headrace.errors import Invalid
from headrace.protobuf_wire import fields
from headrace_registry.domain.pickle_text import holds_pickle

DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
NODES_MAX = 100_000
DIMENSION_MAX = 2**31 - 1
TENSOR_ELEMENTS_MAX = 2**29
TRIPS_MAX = 10_000
# Operator -> inputs that say how large its output is.
SIZE_INPUTS = {
    "AffineGrid": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "DFT": (1,),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "Loop": (0,),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Resize": (2, 3),
    "STFT": (1, 3),
    "Tile": (1,),
    "Upsample": (1,),
}
# Their outputs tell the shape of what was sent, which the size of the request bounds.
SHAPE_OPERATORS = ("Shape", "Size")
# Another answer each time: what they choose is chosen by nobody.
CHANCE_OPERATORS = (
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
)  # fmt: skip
# Operator -> the input that says whether what is inside it runs (once more).
CHOOSING_INPUTS = {"If": 0, "Loop": 1}
# Of a Loop's body: the inputs up to this one count the trips and say whether to go on.
LOOP_GOES_ON = 1
TEXT_TYPES = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
WEIGHTS = "onnx.TensorProto.raw_data"


def check_texts(data: bytes | mmap) -> None:
    """Raises Invalid PICKLE, FORMAT for a field that ONNX does not have.

    A pickle in a text is nothing to us, but somebody may load what they find there. The bytes are
    walked, not the parsed model, which leaves out fields that it does not know, and texts that a
    later one replaces. Fields of a newer ONNX are no loss: its IR version is refused as well.
    """
    for place, text in _texts(data):
        if holds_pickle(text):
            raise Invalid("PICKLE", problem=f"a text of the model holds one: {place}")


def _texts(data: bytes | mmap) -> Iterator[tuple[str, bytes]]:
    """All but the weights, wherever they are: any bytes may be a number."""
    pending = [(onnx.ModelProto.DESCRIPTOR, memoryview(data))]
    while pending:
        message, content = pending.pop()
        for number, _, value in fields(content):
            field = message.fields_by_number.get(number)
            if field is None:
                raise refused(f"ONNX has no field {number} in {message.name}")
            if value is None or field.full_name == WEIGHTS:
                continue
            if field.message_type is not None:
                pending.append((field.message_type, value))
            elif field.type in TEXT_TYPES or not field.is_repeated:  # else they are packed numbers
                yield field.name, bytes(value)


def check_model(model: onnx.ModelProto) -> None:
    """Raises Invalid OPSET or FORMAT."""
    _check_opsets(model)
    nodes = list(nodes_of(model.graph))
    if len(nodes) > NODES_MAX:
        raise refused(f"there are {len(nodes)} nodes, at most {NODES_MAX} are taken")
    for node in nodes:
        if node.domain not in DOMAINS:
            raise Invalid("OPSET", domain=node.domain[:64], operator=node.op_type[:64])
    for tensor in _tensors(model.graph):
        _check_tensor(tensor)
    _check_sizes(model.graph, frozenset(), {})


def _check_opsets(model: onnx.ModelProto) -> None:
    newest = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain not in DOMAINS:
            raise Invalid("OPSET", domain=opset.domain[:64], problem="only ai.onnx and ai.onnx.ml")
        if opset.domain != "ai.onnx.ml" and not 1 <= opset.version <= newest:
            raise Invalid("OPSET", version=opset.version, newest=newest)
    if model.functions:
        raise Invalid("OPSET", problem="holds functions of its own: onnx.inliner takes them out")


def _check_tensor(tensor: onnx.TensorProto) -> None:
    elements = 1
    for size in tensor.dims:
        elements *= size
        if not 0 <= size <= DIMENSION_MAX or elements > TENSOR_ELEMENTS_MAX:
            raise refused(f"a weight has the dimensions {list(tensor.dims)[:8]}")


def _check_sizes(
    graph: onnx.GraphProto, told_outside: frozenset[str], constants: dict[str, int]
) -> None:
    """`told_outside`: names whose values come from a caller or from chance."""
    weights = {each.name for each in graph.initializer}
    constants = {**constants, **_whole_numbers(graph)}
    told = set(told_outside) | {each.name for each in graph.input if each.name not in weights}
    _walk(graph, told, constants)


def _walk(graph: onnx.GraphProto, told: set[str], constants: dict[str, int]) -> None:
    """Adds to `told` what the nodes make of what is told."""
    for node in graph.node:
        for place in SIZE_INPUTS.get(node.op_type, ()):
            if _is_told(node, place, told):
                problem = "depends on the values that a caller sends"
                raise refused(f"the size of what {node.op_type} makes {problem}")
        choosing = CHOOSING_INPUTS.get(node.op_type)
        if choosing is not None and _is_told(node, choosing, told):
            raise _chosen(node)
        if node.op_type == "Loop":
            _check_loop(node, told, constants)
        else:
            for inner in subgraphs_of(node):
                _check_sizes(inner, frozenset(told), constants)
        if node.op_type in CHANCE_OPERATORS or (
            node.op_type not in SHAPE_OPERATORS
            and (told.intersection(node.input) or any(subgraphs_of(node)))
        ):
            told.update(node.output)


def _check_loop(node: onnx.NodeProto, told: set[str], constants: dict[str, int]) -> None:
    """How often it goes round is known here: by a constant, and by nothing that it works out."""
    _check_trips(node, constants)
    for body in subgraphs_of(node):
        known = {each.name for each in list(body.input)[: LOOP_GOES_ON + 1]}
        carried = {each.name for each in body.input} - known
        told_inside = (told | carried) - known - {each.name for each in body.initializer}
        _walk(body, told_inside, {**constants, **_whole_numbers(body)})
        if body.output and body.output[0].name in told_inside:
            raise _chosen(node)


def _is_told(node: onnx.NodeProto, place: int, told: set[str]) -> bool:
    """Inputs that are left out have no name, and nor have outputs."""
    name = node.input[place] if place < len(node.input) else ""
    return name != "" and name in told


def _chosen(node: onnx.NodeProto) -> Invalid:
    problem = "depends on the values that a caller sends, or on chance"
    return refused(f"what runs inside {node.op_type} {problem}")


def _check_trips(node: onnx.NodeProto, constants: dict[str, int]) -> None:
    trips = constants.get(node.input[0]) if node.input else None
    if trips is None or not 0 <= trips <= TRIPS_MAX:
        raise refused(f"a Loop needs a constant number of trips, at most {TRIPS_MAX}")


def _whole_numbers(graph: onnx.GraphProto) -> dict[str, int]:
    """Single int64 values, by name."""
    found = {each.name: each for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.output and node.attribute:
            found[node.output[0]] = node.attribute[0].t
    single = {
        name: each for name, each in found.items() if each.data_type == onnx.TensorProto.INT64
    }
    arrays = {name: onnx.numpy_helper.to_array(each).ravel() for name, each in single.items()
              if len(each.dims) < 2 and (not each.dims or each.dims[0] == 1)}  # fmt: skip
    return {name: int(array[0]) for name, array in arrays.items() if array.size == 1}


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    for each in _graphs(graph):
        yield from each.initializer
        for sparse in each.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in each.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for each in _graphs(graph):
        yield from each.node


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    pending = [graph]
    while pending:
        found = pending.pop()
        yield found
        for node in found.node:
            pending.extend(subgraphs_of(node))


def subgraphs_of(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def refused(problem: str) -> Invalid:
    return Invalid("FORMAT", format="onnx", problem=problem)

# SPDX-License-Identifier: Apache-2.0
"""A planned graph as one ONNX model: its models, each under its step's name, and what is between.

The same plan and the same models give the same bytes. All branches are computed for all rows, and
each row chooses: so rows stand apart whatever a branch's model does with none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper
from onnx.version_converter import ConvertError, convert_version

from headrace.errors import Invalid
from headrace.graph_definition import Element, TensorType
from headrace.graph_plan import Called, Computed, Plan, Value
from headrace.graph_trees import all_nodes
from headrace_trainer.adapters.onnx_expression import ELEMENTS, ExpressionWriter, NodeWriter

PRODUCER = "headrace"
ROWS = "rows"
# The least with all that expressions are written in; texts are compared from the second on.
OPSET_MIN, TEXT_OPSET_MIN = 17, 19
MAIN_DOMAINS = ("", "ai.onnx")
PROBLEM_LENGTH_MAX = 200


def compose_onnx(plan: Plan, models: Mapping[str, onnx.ModelProto]) -> onnx.ModelProto:
    """`models`: by step, of one opset (`of_one_opset`).

    Raises Invalid OPSET.
    """
    builder = _Builder(plan, models)
    for step in plan.steps:
        if isinstance(step, Called):
            builder.call(step)
        else:
            builder.compute(step)
    for name, value in plan.outputs.items():
        builder.give(name, value)
    return builder.model()


def of_one_opset(plan: Plan, models: Mapping[str, onnx.ModelProto]) -> dict[str, onnx.ModelProto]:
    """The models in the newest operators that one of them, or the graph itself, is written in.

    Raises Invalid OPSET for one that cannot be converted.
    """
    newest = max([_least_opset(plan), *(_opset(model) for model in models.values())])
    return {step: _converted(step, model, newest) for step, model in models.items()}


class _Builder:
    """Writes step after step; a tensor of the plan has a name in the model once it is made."""

    def __init__(self, plan: Plan, models: Mapping[str, onnx.ModelProto]) -> None:
        self._plan, self._models = plan, models
        self._to = NodeWriter()
        self._weights: list[onnx.TensorProto] = []
        self._sparse_weights: list[onnx.SparseTensorProto] = []
        self._names = {name: name for name in plan.inputs}
        self._matrices: dict[tuple[str, int | None], str] = {}

    def compute(self, step: Computed) -> None:
        values = self._plan.values

        def column(name: str) -> tuple[str, Element]:
            return self._matrix(values[name]), values[name].type.element

        matrix = ExpressionWriter(self._to, column).write(step.tree, step.type.element)
        self._matrices[step.name, None] = matrix
        self._names[step.name] = matrix if step.type.columns else self._squeezed(matrix)

    def call(self, step: Called) -> None:
        """Takes the model's nodes and weights in, all names under the step's."""
        graph = onnx.GraphProto.FromString(self._models[step.name].graph.SerializeToString())
        _rename(graph, f"{step.name}/")
        for name, given in step.inputs.items():
            identity = ("Identity", [self._given(given)], [f"{step.name}/{name}"])
            self._to.nodes.append(helper.make_node(*identity))
        self._to.nodes.extend(graph.node)
        self._weights.extend(graph.initializer)
        self._sparse_weights.extend(graph.sparse_initializer)
        for output in step.outputs:
            self._names[f"{step.name}.{output}"] = f"{step.name}/{output}"

    def give(self, name: str, value: Value) -> None:
        self._to.nodes.append(helper.make_node("Identity", [self._given(value)], [name]))

    def model(self) -> onnx.ModelProto:
        plan = self._plan
        graph = helper.make_graph(
            self._to.nodes,
            PRODUCER,
            [_value_info(name, type_) for name, type_ in plan.inputs.items()],
            [_value_info(name, value.type) for name, value in plan.outputs.items()],
            [*self._to.constants, *self._weights],
            sparse_initializer=self._sparse_weights,
        )
        versions = self._versions()
        opsets = [helper.make_opsetid(domain, number) for domain, number in versions.items()]
        known = [model.ir_version for model in self._models.values()]
        ir_version = max([helper.find_min_ir_version_for(opsets), *known])
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=ir_version, producer_name=PRODUCER
        )

    def _versions(self) -> dict[str, int]:
        versions = {"": _least_opset(self._plan)}
        for step, model in self._models.items():
            for opset in model.opset_import:
                domain = "" if opset.domain in MAIN_DOMAINS else opset.domain
                known = versions.setdefault(domain, opset.version)
                if domain and known != opset.version:
                    problem = f"{domain} {opset.version} beside {known} of another step"
                    raise Invalid("OPSET", step=step, problem=problem)
                versions[domain] = max(known, opset.version)
        return versions

    def _given(self, given: Value | tuple[Value, ...]) -> str:
        """The tensor as a model or a caller takes it: [rows], or [rows, columns]."""
        if isinstance(given, Value):
            if given.column is None:
                return self._names[given.tensor]
            return self._squeezed(self._matrix(given))
        tensors = {each.tensor for each in given}
        places = [each.column for each in given if each.column is not None]
        if len(tensors) == 1 and len(places) == len(given):
            return self._gathered(given[0].tensor, places)
        matrices = [self._matrix(each) for each in given]
        return self._to.add("Concat", *matrices, axis=1) if len(matrices) > 1 else matrices[0]

    def _gathered(self, tensor: str, places: Sequence[int]) -> str:
        """Columns of one tensor: itself when they are all of it, in their order."""
        name = self._names[tensor]
        if list(places) == list(range(self._width(tensor))):
            return name
        return self._to.add("Gather", name, self._to.constant(np.array(places, np.int64)), axis=1)

    def _width(self, tensor: str) -> int:
        wholes = (value for value in self._plan.values.values() if value.column is None)
        return next(value.type.columns or 0 for value in wholes if value.tensor == tensor)

    def _matrix(self, value: Value) -> str:
        """[rows, columns], one column for what has one value a row."""
        key = (value.tensor, value.column)
        if key not in self._matrices:
            name = self._names[value.tensor]
            if value.column is not None:
                place = self._to.constant(np.array([value.column], np.int64))
                self._matrices[key] = self._to.add("Gather", name, place, axis=1)
            elif value.type.columns:
                self._matrices[key] = name
            else:
                self._matrices[key] = self._to.add("Unsqueeze", name, self._axis())
        return self._matrices[key]

    def _squeezed(self, matrix: str) -> str:
        return self._to.add("Squeeze", matrix, self._axis())

    def _axis(self) -> str:
        return self._to.constant(np.array([1], np.int64))


def _value_info(name: str, type_: TensorType) -> onnx.ValueInfoProto:
    shape = [ROWS, type_.columns] if type_.columns else [ROWS]
    return helper.make_tensor_value_info(name, ELEMENTS[type_.element], shape)


def _rename(graph: onnx.GraphProto, prefix: str) -> None:
    """Every name of a value, in graphs inside it too: so that each means what it meant.

    onnx.compose.add_prefix leaves weights of the outer graph that an inner one reads as they were.
    """
    for each in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        each.name = prefix + each.name
    for sparse in graph.sparse_initializer:
        sparse.values.name = prefix + sparse.values.name
    for node in graph.node:
        node.name = prefix + node.name if node.name else ""
        node.input[:] = [prefix + name if name else "" for name in node.input]
        node.output[:] = [prefix + name if name else "" for name in node.output]
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                _rename(inner, prefix)


def _least_opset(plan: Plan) -> int:
    trees = (step.tree for step in plan.steps if isinstance(step, Computed))
    texts = any(node.type == "string" for tree in trees for node in all_nodes(tree))
    return TEXT_OPSET_MIN if texts else OPSET_MIN


def _opset(model: onnx.ModelProto) -> int:
    return max((each.version for each in model.opset_import if each.domain in MAIN_DOMAINS),
               default=OPSET_MIN)  # fmt: skip


def _converted(step: str, model: onnx.ModelProto, newest: int) -> onnx.ModelProto:
    if _opset(model) == newest:
        return model
    try:
        return convert_version(model, newest)
    except (RuntimeError, ConvertError, ValueError) as err:
        # The converter is C++: its assertions begin with a file and a line of it.
        told = " ".join(str(err).rpartition("failed: ")[2].split())[:PROBLEM_LENGTH_MAX]
        problem = f"of opset {_opset(model)} cannot be converted to {newest}: {told}"
        raise Invalid("OPSET", step=step, problem=problem) from err

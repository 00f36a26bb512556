# SPDX-License-Identifier: Apache-2.0
"""The child process that compiles a graph: `python -m` this, and the job's folder.

The compiled model must answer each row by itself, and a component whose operators were converted
must answer as it did before. With a recipe it is measured as what that trains is.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from headrace.application import Recipe, parse_definition
from headrace.errors import Invalid
from headrace.graph_definition import Graph, TensorType, refuse, tensor_type
from headrace.graph_plan import Plan, plan_graph
from headrace.graph_signature import Signature
from headrace_trainer.adapters.measuring import measured, open_session, read_rows, reference
from headrace_trainer.adapters.onnx_graph import compose_onnx, of_one_opset
from headrace_trainer.adapters.training_child import (
    CHAMPION,
    TRAINING_SET,
    read_job,
    report,
    run_child,
    write_result,
)

SAMPLE_ROWS, SEED = 3, 7
# float32 of a sum in another order.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
Tensors = dict[str, NDArray[Any]]


def train(folder: Path) -> None:
    job = read_job(folder)
    graph = parse_definition(job["graph"])
    assert isinstance(graph, Graph)  # noqa: S101 (the parent wrote it)
    recipe = None if job["recipe"] is None else _recipe(job["recipe"])
    rows = None if recipe is None else read_rows(folder / TRAINING_SET, recipe)
    components = job["components"]
    signatures = {step: _signature(each) for step, each in components.items()}
    plan = plan_graph(graph, recipe.features if recipe else (), signatures)
    files = {step: (folder / each["file"]).read_bytes() for step, each in components.items()}
    report("compiling the graph")
    onnx_bytes = compile_graph(graph, plan, files, signatures)
    metrics: Mapping[str, float] = {}
    histograms: list[dict[str, Any]] = []
    if recipe is not None and rows is not None:
        report("measuring it on the holdout")
        metrics = measured(onnx_bytes, rows, folder / CHAMPION)
        histograms = reference(recipe, rows, job["window_s"])
    manifest = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    write_result(folder, onnx_bytes, metrics=metrics, reference=histograms, manifest=manifest)


def compile_graph(
    graph: Graph, plan: Plan, files: Mapping[str, bytes], signatures: Mapping[str, Signature]
) -> bytes:
    """One ONNX file. Raises Invalid OPSET, BAD_DEFINITION when its rows do not stand apart."""
    models = {step: onnx.ModelProto.FromString(data) for step, data in files.items()}
    alike = of_one_opset(plan, models)
    for step, model in alike.items():
        if model is not models[step]:
            _check_converted(step, files[step], model, signatures[step])
    compiled = compose_onnx(plan, alike)
    onnx.checker.check_model(compiled)
    data: bytes = compiled.SerializeToString(deterministic=True)
    _check_rows_apart(graph, plan, data)
    return data


def _check_converted(
    step: str, before: bytes, model: onnx.ModelProto, signature: Signature
) -> None:
    given = _sample(signature.inputs)
    names = list(signature.outputs)
    was = open_session(before).run(names, given)
    now = open_session(model.SerializeToString()).run(names, given)
    if not all(_alike(one, other) for one, other in zip(was, now, strict=True)):
        raise Invalid("OPSET", step=step, problem="it answers otherwise once it is converted")


def _check_rows_apart(graph: Graph, plan: Plan, data: bytes) -> None:
    session, given, names = open_session(data), _sample(plan.inputs), list(plan.outputs)
    together = session.run(names, given)
    for row in range(SAMPLE_ROWS):
        alone = session.run(names, {name: each[row : row + 1] for name, each in given.items()})
        for name, one, all_ in zip(names, alone, together, strict=True):
            if len(all_) != SAMPLE_ROWS or not _alike(one, all_[row : row + 1]):
                problem = "what a row is answered depends on the rows beside it"
                refuse(graph, f"outputs.{name}", problem)


def _sample(inputs: Mapping[str, TensorType]) -> Tensors:
    """Rows that differ, of values that an index may have, too."""
    random = np.random.default_rng(SEED)
    return {name: _values(type_, random) for name, type_ in inputs.items()}


def _values(type_: TensorType, random: np.random.Generator) -> NDArray[Any]:
    shape = (SAMPLE_ROWS, type_.columns) if type_.columns else (SAMPLE_ROWS,)
    if type_.element == "string":
        return random.choice(np.array(["a", "b"], dtype=object), shape)
    if type_.element.startswith("float"):
        return random.uniform(0.1, 1.0, shape).astype(type_.element)
    return random.integers(0, 2, shape).astype(type_.element)


def _alike(one: NDArray[Any], other: NDArray[Any]) -> bool:
    if one.dtype.kind == "f":
        return one.shape == other.shape and bool(
            np.allclose(one, other, equal_nan=True, **TOLERANCE)
        )
    return bool(np.array_equal(one, other))


def _recipe(document: object) -> Recipe:
    recipe = parse_definition(document)
    assert isinstance(recipe, Recipe)  # noqa: S101 (the parent wrote it)
    return recipe


def _signature(document: Mapping[str, Any]) -> Signature:
    return Signature(
        {name: tensor_type(text) for name, text in document["inputs"].items()},
        {name: tensor_type(text) for name, text in document["outputs"].items()},
        tuple(document["features"]),
    )


if __name__ == "__main__":
    sys.exit(run_child(train, Path(sys.argv[1])))

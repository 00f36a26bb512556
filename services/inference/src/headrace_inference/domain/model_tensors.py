# SPDX-License-Identifier: Apache-2.0
"""What a version takes and gives by tensors, and a request checked against it.

A version with features takes a vector for each row; any other takes the model's own tensors. Rows
are counted by the first size where the model answers each by itself; otherwise a request is one
row, whatever its shape.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.errors import Busy, HeadraceError, Invalid
from headrace_inference.domain.request import (
    ATTRIBUTIONS,
    FEATURES,
    PREDICTION_ID,
    SCORE,
    Tensor,
    check_outputs,
    listed,
)
from headrace_inference.domain.serving import (
    ANY_SIZE,
    NAME_SHOWN_MAX,
    LoadedVersion,
    Model,
    TensorSpec,
)

EXPLAINED = ("FP16", "FP32", "FP64")
# Values that one thread is done with before others would have begun.
FEW = 1_000


def tensor_inputs(loaded: LoadedVersion) -> tuple[TensorSpec, ...]:
    """What a caller by tensors must send."""
    return loaded.model.inputs


def tensor_outputs(loaded: LoadedVersion) -> tuple[TensorSpec, ...]:
    """What a caller by tensors may ask for."""
    if not loaded.served.features:
        return loaded.model.outputs
    return (
        TensorSpec(SCORE, "FP32", (ANY_SIZE,)),
        TensorSpec(FEATURES, "FP32", (ANY_SIZE, len(loaded.served.features))),
        TensorSpec(PREDICTION_ID, "BYTES", (ANY_SIZE,)),
    )


def read_tensors(inputs: Mapping[str, Tensor], model: Model, *, rows_max: int) -> int:
    """Rows of the request, its inputs checked.

    Raises Invalid TENSOR_NAME, TENSOR_DTYPE, TENSOR_SHAPE, Busy BATCH_TOO_LARGE.
    """
    specs = {spec.name: spec for spec in model.inputs}
    for name in specs:
        if name not in inputs:
            raise Invalid("TENSOR_NAME", input=name, problem="missing")
    sizes: dict[str, int] = {}
    for name, tensor in inputs.items():
        if name not in specs:
            shown, known = name[:NAME_SHOWN_MAX], listed(specs)
            raise Invalid("TENSOR_NAME", input=shown, problem="unknown", known=known)
        _check(tensor, specs[name], sizes)
    if not model.rows_apart:
        return 1
    rows_by_input = {name: tensor.shape[0] for name, tensor in inputs.items()}
    rows = max(rows_by_input.values())
    if min(rows_by_input.values()) != rows or rows < 1:
        raise Invalid("TENSOR_SHAPE", rows_by_input=rows_by_input)
    if rows > rows_max:
        raise Busy("BATCH_TOO_LARGE", rows=rows, rows_max=rows_max)
    return rows


def wanted_outputs(outputs: Sequence[str], model: Model) -> list[str]:
    """Names of the model's outputs to compute; raises Invalid TENSOR_NAME."""
    own = [spec.name for spec in model.outputs]
    check_outputs(outputs, (*own, PREDICTION_ID, *explainable(model)))
    return [name for name in outputs if name in own] or own


def explainable(model: Model) -> dict[str, str]:
    """Input by the output that explains it, of a version that takes the model's own tensors.

    Nothing for a model that does not answer each row by itself alone.
    """
    own = {spec.name for spec in model.outputs}
    names = {
        f"{ATTRIBUTIONS}.{spec.name}": spec.name
        for spec in model.inputs
        if model.rows_apart and spec.datatype in EXPLAINED
    }
    return {name: of for name, of in names.items() if name not in own}


def fed(tensor: Tensor) -> NDArray[Any]:
    """As the model takes it; raises Invalid TENSOR_CONTENT for text that is none."""
    if not isinstance(tensor.values, list):
        return tensor.values
    try:
        texts = [element.decode() for element in tensor.values]
    except UnicodeDecodeError as err:
        raise Invalid("TENSOR_CONTENT", input=tensor.name, problem="not UTF-8") from err
    return np.array(texts, dtype=object).reshape(tensor.shape)


def told(spec: TensorSpec, values: NDArray[Any]) -> Tensor:
    """As the caller takes it."""
    if spec.datatype != "BYTES":
        return Tensor(spec.name, spec.datatype, values.shape, values)
    elements = [str(element).encode() for element in values.ravel()]
    return Tensor(spec.name, spec.datatype, values.shape, elements)


def as_numbers(datatype: str, values: NDArray[Any]) -> NDArray[Any]:
    """Of BF16, which is held as its bits, the numbers: they are the first half of a float32's."""
    if datatype != "BF16":
        return values
    return (values.astype(np.uint32) << 16).view(np.float32)


def holds_nan(values: NDArray[Any]) -> bool:
    if values.dtype.kind != "f":
        return False
    # A sum of squares is NaN where one is, and nowhere else: of few in a third of the time.
    few = values.size <= FEW
    return math.isnan(np.vdot(values, values)) if few else bool(np.isnan(values).any())


def nonfinite(given: Mapping[str, NDArray[Any]], *, version: int) -> HeadraceError:
    """Whose fault an answer is that is no number: of the caller, who sent none, or the model's.

    `given`: what the caller sent.
    """
    for name, values in given.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            return Invalid("TENSOR_NONFINITE", input=name)
    return HeadraceError("MODEL_NONFINITE", version=version)


def _check(tensor: Tensor, spec: TensorSpec, sizes: dict[str, int]) -> None:
    """`sizes` holds what each symbol has stood for so far in this request."""
    if tensor.datatype != spec.datatype:
        raise Invalid(
            "TENSOR_DTYPE", input=spec.name, datatype=tensor.datatype, expected=spec.datatype
        )
    fits = len(tensor.shape) == len(spec.shape) and all(
        expected in (ANY_SIZE, size)
        for size, expected in zip(tensor.shape, spec.shape, strict=True)
    )
    named = zip(spec.symbols, tensor.shape, strict=False)
    if not fits or any(sizes.setdefault(name, size) != size for name, size in named if name):
        raise Invalid(
            "TENSOR_SHAPE", input=spec.name, shape=list(tensor.shape), expected=list(spec.shape)
        )

# SPDX-License-Identifier: Apache-2.0
"""Why a row was answered so: how far its answer moves when one number of its input is taken away.

Occlusion, which asks nothing of a model but to run (Zeiler and Fergus 2014, section 4.2; Robnik-
Sikonja and Kononenko 2008): the attribution of a number is the answer less the answer without it. A
feature is taken away by making it absent (NaN), which models of features are trained to meet; a
number of any other model by 0. What two numbers only do together both are given: attributions
need not add up to the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.errors import Busy, HeadraceError, Invalid
from headrace_inference.domain.model_tensors import explainable, fed, nonfinite
from headrace_inference.domain.request import ATTRIBUTIONS, FEATURES, Tensor
from headrace_inference.domain.serving import LoadedVersion

# Rows that one request may cost: each number of each of its rows is one.
OCCLUDED_ROWS_MAX = 100_000
# Of the inputs of one run: a row may be as large as a request.
RUN_BYTES_MAX = 16 << 20


def wanted_attributions(outputs: Sequence[str], loaded: LoadedVersion) -> dict[str, str]:
    """Input by output, of the outputs that explain."""
    known = {ATTRIBUTIONS: FEATURES} if loaded.served.features else explainable(loaded.model)
    return {name: known[name] for name in outputs if name in known}


def occluded_rows(inputs: Mapping[str, Tensor], wanted: Mapping[str, str]) -> int:
    """Rows that the model runs for it; raises Busy BATCH_TOO_LARGE."""
    rows = sum(prod(inputs[name].shape) for name in wanted.values())
    if rows > OCCLUDED_ROWS_MAX:
        raise Busy("BATCH_TOO_LARGE", occluded_rows=rows, occluded_rows_max=OCCLUDED_ROWS_MAX)
    return rows


def attributions(
    loaded: LoadedVersion,
    inputs: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
    wanted: Mapping[str, str],
    *,
    rows_max: int,
    before_run: Callable[[int], None],
) -> dict[str, Tensor]:
    """Of each wanted name a tensor FP32 of its input's shape.

    `outputs`: the answer; explained is its first tensor of numbers, of several numbers a row the
    largest. `before_run` is told the rows of each run, of which there may be many, and what it
    raises ends them. Raises Invalid UNSUPPORTED when there is none, TENSOR_NONFINITE,
    HeadraceError MODEL_ERROR, MODEL_NONFINITE.
    """
    explained = _Explained(loaded, outputs, rows_max=rows_max, before_run=before_run)
    arrays = {name: fed(tensor) for name, tensor in inputs.items()}
    absent = np.nan if loaded.served.features else 0.0
    return {
        name: Tensor(name, "FP32", inputs[of].shape, explained.moved(arrays, of, absent))
        for name, of in wanted.items()
    }


class _Explained:
    """The number of each row that is explained."""

    def __init__(
        self,
        loaded: LoadedVersion,
        outputs: Mapping[str, Tensor],
        *,
        rows_max: int,
        before_run: Callable[[int], None],
    ) -> None:
        self._model, self._served = loaded.model, loaded.served
        self._rows_max, self._before_run = rows_max, before_run
        numbers = (name for name, each in outputs.items() if _holds_numbers(each))
        self._name = next(numbers, "")
        if not self._name:
            raise Invalid("UNSUPPORTED", problem="the outputs that are asked for hold no number")
        values = self._by_row(np.asarray(outputs[self._name].values))
        self._places = values.argmax(axis=1)
        self._answers = np.take_along_axis(values, self._places[:, None], axis=1)[:, 0]

    def moved(
        self, arrays: Mapping[str, NDArray[Any]], name: str, absent: float
    ) -> NDArray[np.float32]:
        """How far the answers move, of the input's shape."""
        values = arrays[name]
        rows, numbers = len(values), prod(values.shape[1:])
        moved = np.empty((numbers, rows))
        for places in _parts(numbers, self._times_max(arrays, rows)):
            times = len(places)
            self._before_run(times * rows)
            repeated = {each: np.concatenate([array] * times) for each, array in arrays.items()}
            flat = repeated[name].reshape(times, rows, numbers)
            flat[np.arange(times), :, places] = absent
            moved[places] = self._answers - self._without(repeated, times)
        found = moved.T.reshape(values.shape).astype(np.float32)
        if not np.isfinite(found).all():
            # Absent features are a model's to bear; any other takes numbers.
            raise nonfinite({} if self._served.features else arrays, version=self._served.version)
        return found

    def _times_max(self, arrays: Mapping[str, NDArray[Any]], rows: int) -> int:
        """How often the rows may stand in one run."""
        bytes_once = sum(array.nbytes for array in arrays.values())
        bytes_max = min(RUN_BYTES_MAX, self._model.fitting_bytes(bytes_once // rows))
        return max(1, min(self._rows_max // rows, bytes_max // max(1, bytes_once)))

    def _without(self, arrays: Mapping[str, NDArray[Any]], times: int) -> NDArray[np.float64]:
        """[times, rows]: the explained numbers of rows that lack something."""
        (values,) = self._model.run(arrays, [self._name])
        if len(values) != times * len(self._places):
            raise HeadraceError("MODEL_ERROR")
        places = np.tile(self._places, times)[:, None]
        return np.take_along_axis(self._by_row(values), places, axis=1).reshape(times, -1)

    def _by_row(self, values: NDArray[Any]) -> NDArray[np.float64]:
        return values.reshape(len(values), -1).astype(np.float64)


def _holds_numbers(tensor: Tensor) -> bool:
    """BF16 comes as its bits."""
    return tensor.datatype not in ("BYTES", "BF16") and prod(tensor.shape) > 0


def _parts(count: int, size: int) -> Iterator[NDArray[np.intp]]:
    for start in range(0, count, size):
        yield np.arange(start, min(count, start + size))

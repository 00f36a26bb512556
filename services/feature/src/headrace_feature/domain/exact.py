# SPDX-License-Identifier: Apache-2.0
"""Sums without rounding, so that no order of events and no way of adding shows in an answer.

A sum is the exact sum, rounded once to float64; a mean is that divided by the count; an answer is
rounded once more to float32. The online read adds the window's values, the training set subtracts
running totals: both give the same bits because nothing is rounded before.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

FLOAT32_MAX = float(np.finfo(np.float32).max)
INT64_SAFE = 2**62
# int64, or Python integers where int64 is too short.
Totals = NDArray[np.int64] | NDArray[np.object_]


def as_float32(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """The answer's form: beyond the range is the end of the range, minus zero is zero."""
    return (np.minimum(np.maximum(values, -FLOAT32_MAX), FLOAT32_MAX) + 0.0).astype(np.float32)


def sum_of_floats(values: Sequence[float]) -> float:
    """The exact sum, rounded once."""
    try:
        return math.fsum(values)
    except OverflowError:
        total = sum(map(Fraction, values), Fraction())
        return rounded(total.numerator, total.denominator)


def rounded(numerator: int, denominator: int) -> float:
    """The nearest finite float64; Python divides integers with a single rounding."""
    try:
        return numerator / denominator
    except OverflowError:
        return sys.float_info.max if numerator > 0 else -sys.float_info.max


class RunningTotals:
    """Exact totals of the first k values in some order, for every k.

    `values`: int64 or float64, each a whole number of 1/`denominator`. The whole numbers stay int64
    where no total can leave it, else they are Python's, which have no end.
    """

    def __init__(self, values: NDArray[np.int64] | NDArray[np.float64]) -> None:
        wholes, self._denominator = _wholes(values)
        small = sum(map(abs, wholes)) < INT64_SAFE
        self._wholes = np.array(wholes, dtype=np.int64 if small else object)

    def in_order(self, order: NDArray[np.intp]) -> Totals:
        """[values + 1]: entry k is the total of the first k values of `order`."""
        ordered = self._wholes[order]
        if ordered.dtype == object:
            return np.array(list(accumulate(ordered, initial=0)), dtype=object)
        return np.concatenate(([0], np.cumsum(ordered)))

    def as_float64(self, totals: Totals) -> NDArray[np.float64]:
        """Differences of totals, rounded once: a power of two divides without rounding."""
        if totals.dtype == object:
            return np.array([rounded(total, self._denominator) for total in totals], np.float64)
        return np.ldexp(totals.astype(np.float64), 1 - self._denominator.bit_length())


def _wholes(values: NDArray[np.int64] | NDArray[np.float64]) -> tuple[list[int], int]:
    if values.dtype == np.int64:
        return values.tolist(), 1
    ratios = [value.as_integer_ratio() for value in values.tolist()]
    # A float's denominator is a power of two: the largest is a multiple of all.
    denominator = max((bottom for _, bottom in ratios), default=1)
    return [top * (denominator // bottom) for top, bottom in ratios], denominator

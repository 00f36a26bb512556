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
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOAT32_MAX = float(np.finfo(np.float32).max)
INT64_SAFE = 2**62
# float64 holds such a digit exactly.
DIGIT_BITS_MAX = 52
SPREAD_BITS = 64


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


class Totals:
    """Exact totals of the first k values in some order, for every k, as digits of a number.

    Each value is a whole number of 2**`unit`, cut into digits of `bits` bits. A running total of a
    digit may wrap around in int64: only the difference of two of them must fit, and it does for up
    to `count_max` values.
    """

    def __init__(self, values: NDArray[np.int64] | NDArray[np.float64], *, count_max: int) -> None:
        split: Any = _digits_of_wholes if values.dtype == np.int64 else _digits_of_floats
        self._bits, self._digits, self._unit = split(values, 62 - count_max.bit_length())

    def running(
        self, counted: NDArray[np.bool_], picked: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """[rows + 1, digits]: entry k is the total of those of the first k that are counted.

        `picked`: of each row, the place of its value where that is not the row itself; of one that
        is not counted, any number.
        """
        totals = np.zeros((len(counted) + 1, len(self._digits)), dtype=np.int64)
        for place, digit in enumerate(self._digits):
            values = digit if picked is None else _picked(digit, counted, picked)
            np.cumsum(np.where(counted, values, 0), out=totals[1:, place])
        return totals

    def of(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """[places, digits]: the values at these places."""
        return np.stack([digit[places] for digit in self._digits], axis=1)

    def as_float64(self, totals: NDArray[np.int64]) -> NDArray[np.float64]:
        """Differences of totals, [rows, digits], rounded once; beyond the range its end."""
        with np.errstate(over="ignore"):
            rounded_once = self._rounded_once(totals)
        return np.clip(rounded_once, -sys.float_info.max, sys.float_info.max)

    def _rounded_once(self, totals: NDArray[np.int64]) -> NDArray[np.float64]:
        if totals.shape[1] == 1:
            return np.ldexp(totals[:, 0].astype(np.float64), self._unit)
        if totals.shape[1] == 2:
            low, high = totals.T
            high = high + (low >> self._bits)
            if max(int(high.max(initial=0)), -int(high.min(initial=0))) < 1 << 53:
                # Of two floats that are exact, IEEE 754 adds the exact sum, rounded once.
                low = low & ((1 << self._bits) - 1)
                return np.ldexp(high * 2.0**self._bits + low, self._unit)
        highest, exponents = _highest_bits(totals, self._bits)
        return np.ldexp(highest.astype(np.float64), exponents + self._unit)


def _picked(
    digit: NDArray[np.int64], counted: NDArray[np.bool_], picked: NDArray[np.int64]
) -> NDArray[np.int64]:
    values = np.zeros(len(counted), dtype=np.int64)
    values[counted] = digit[picked[counted]]
    return values


def _digits_of_wholes(
    values: NDArray[np.int64], bits: int
) -> tuple[int, list[NDArray[np.int64]], int]:
    """(bits of a digit, digits with the lowest first, unit); the highest keeps the sign."""
    widest = max(int(values.max(initial=0)), -1 - int(values.min(initial=0))).bit_length()
    if widest > bits:
        bits = min(bits, DIGIT_BITS_MAX)
    digits = []
    while widest > bits:
        digits.append(values & ((1 << bits) - 1))
        values, widest = values >> bits, widest - bits
    return bits, [*digits, values], 0


def _digits_of_floats(
    values: NDArray[np.float64], bits: int
) -> tuple[int, list[NDArray[np.int64]], int]:
    """As those of whole numbers, each with the sign of its value."""
    mantissas, exponents = np.frexp(values)
    wholes = (mantissas * 2.0**53).astype(np.int64)
    some = wholes != 0
    if not some.any():
        return bits, [np.zeros(len(values), dtype=np.int64)], 0
    lowest = np.frexp((wholes & -wholes)[some].astype(np.float64))[1] - 1
    unit = int((exponents[some] - 53 + lowest).min())
    widest = int(exponents[some].max()) - unit
    if widest > bits:
        bits = min(bits, DIGIT_BITS_MAX)
    digits, rest = [], values
    for place in reversed(range(-(-widest // bits))):
        # Cutting a float at a power of two loses no bit.
        digit = np.trunc(np.ldexp(rest, -(unit + bits * place)))
        rest = rest - np.ldexp(digit, unit + bits * place)
        digits.append(digit.astype(np.int64))
    return bits, digits[::-1], unit


def _highest_bits(
    totals: NDArray[np.int64], bits: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(whole, exponent): the 63 highest bits of each row's number, with its sign.

    The last of them says too whether any lower one is set: what rounding to 53 bits has to know.
    """
    digits, negative = _carried(totals, bits)
    high = np.zeros(len(totals), dtype=np.int64)
    room, exponent = np.full(len(totals), -1), np.zeros(len(totals), dtype=np.int64)
    for place in reversed(range(len(digits))):
        digit = digits[place]
        begins = (room < 0) & (digit > 0)
        length = np.frexp(digit[begins].astype(np.float64))[1].astype(np.int64)
        room[begins], exponent[begins] = 63 - length + bits, bits * place + length - 63
        begun, left = room >= 0, room - bits
        right = np.minimum(np.maximum(-left, 0), bits)
        lost = (digit & ((np.int64(1) << right) - 1)) != 0
        kept = (digit << np.maximum(left, 0)) >> right
        high |= np.where(begun, kept | lost, 0)
        room = np.where(begun, np.maximum(left, 0), room)
    return np.where(negative, -high, high), exponent


def _carried(
    totals: NDArray[np.int64], bits: int
) -> tuple[list[NDArray[np.int64]], NDArray[np.bool_]]:
    """Digits from 0 to 2**bits - 1, lowest first, of the absolute number; and its sign."""
    digits = _normal(list(totals.T), bits)
    negative = digits[-1] < 0
    return _normal([np.where(negative, -digit, digit) for digit in digits], bits), negative


def _normal(digits: list[NDArray[np.int64]], bits: int) -> list[NDArray[np.int64]]:
    """The same numbers; every digit but a negative number's highest is its lowest bits."""
    normal, carry = [], np.zeros(len(digits[0]), dtype=np.int64)
    for digit in digits:
        carried = digit + carry
        carry = carried >> bits
        normal.append(carried & ((1 << bits) - 1))
    return [*normal, carry]


def std(
    values: NDArray[Any], starts: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Of each run of values, that of the sample; NaN of fewer than two.

    n * sum(x^2) - sum(x)^2 is an exact number and rounded once.
    """
    wholes, unit = _wholes(values, int(counts.max()))
    totals, squares = (np.add.reduceat(each, starts) for each in (wholes, wholes * wholes))
    spreads = counts * squares - totals * totals
    if spreads.dtype == object:
        return np.array(list(map(std_of, spreads, repeat(unit), counts.tolist())), np.float64)
    return std_of_small(spreads, counts)


def std_of_small(spreads: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """By their spreads n * sum(x^2) - sum(x)^2; NaN of fewer than two values."""
    pairs = counts.astype(np.float64) * (counts - 1)
    roots = np.sqrt(spreads.astype(np.float64) / np.maximum(pairs, 1))
    return np.where(counts > 1, roots, np.nan)


def std_of(spread: int, unit: int, count: int) -> float:
    """That of `count` values whose spread is `spread` * 4**`unit`; beyond the range its end.

    The spread may be far beyond the range where its root is within: it is cut to some bits by a
    power of four, and the root is scaled. Only a root below 2.2e-308 is rounded by that.
    """
    if count < 2:
        return math.nan
    down = max(spread.bit_length() - SPREAD_BITS, 0) // 2
    root = math.sqrt(rounded(spread, 1 << 2 * down) / (float(count) * (count - 1)))
    try:
        return math.ldexp(root, unit + down)
    except OverflowError:
        return sys.float_info.max


def _wholes(values: NDArray[Any], count_max: int) -> tuple[NDArray[Any], int]:
    """Whole numbers of 2**unit; those of Python where int64 is too short for what std makes."""
    if values.dtype == np.int64:
        largest = max(int(values.max()), -int(values.min())) * count_max
        return (values if largest < 2**31 else values.astype(object)), 0
    mantissas, exponents = np.frexp(values)
    unit = int(exponents.min())
    whole = (mantissas * 2.0**53).astype(np.int64).astype(object)
    return whole << (exponents - unit).astype(object), unit - 53

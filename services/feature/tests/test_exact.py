# SPDX-License-Identifier: Apache-2.0
"""Running totals against rational arithmetic."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_feature.domain.exact import Totals, rounded

WHOLES = st.integers(-(2**63), 2**63 - 1) | st.integers(-50, 50)
PRICES = st.integers(-(10**7), 10**7).map(lambda cents: cents / 100)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
NUMBERS = st.one_of(st.lists(WHOLES), st.lists(PRICES), st.lists(FLOATS), st.lists(FLOATS | PRICES))


@given(
    values=NUMBERS, cuts=st.lists(st.integers(0, 60), min_size=2), count=st.sampled_from([1, 2**30])
)
def test_difference_of_running_totals_is_the_exact_sum_rounded_once(values, cuts, count):
    totals = Totals(np.array(values or [0.0]), count_max=max(count, len(values)))
    running = totals.running(np.ones(len(values), dtype=bool))
    for cut in pairwise(sorted(min(cut, len(values)) for cut in cuts)):
        exact = sum(map(Fraction, values[slice(*cut)]), Fraction())
        difference = running[[cut[1]]] - running[[cut[0]]]

        assert [rounded(exact.numerator, exact.denominator)] == totals.as_float64(difference)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_sum_beyond_the_range_is_its_end(sign):
    totals = Totals(np.array([1.7e308, 1.7e308]) * sign, count_max=2)
    running = totals.running(np.ones(2, dtype=bool))

    assert [sign * 1.7976931348623157e308] == totals.as_float64(running[[2]])

# SPDX-License-Identifier: Apache-2.0
"""The tail against the tables of Abramowitz and Stegun (26.7, 26.8)."""

import pytest

from headrace_kit.chi_squared import chi_squared_tail

# x that is exceeded with this probability, by degrees of freedom.
TABLE = [
    (1, 0.05, 3.84146),
    (2, 0.05, 5.99146),
    (3, 0.01, 11.3449),
    (9, 0.05, 16.9190),
    (9, 0.001, 27.8772),
    (10, 0.05, 18.3070),
    (10, 0.95, 3.94030),
    (30, 0.005, 53.6720),
]


@pytest.mark.parametrize(("degrees", "tail", "x"), TABLE)
def test_tail_equals_the_table(degrees, tail, x):
    assert tail == pytest.approx(chi_squared_tail(x, degrees), rel=2e-5)


@pytest.mark.parametrize("degrees", [1, 2, 9, 10])
def test_tail_falls_from_one_to_zero(degrees):
    tails = [chi_squared_tail(x, degrees) for x in (-1.0, 0.0, 1.0, 10.0, 100.0, 1e6)]

    assert [1.0, 1.0] == tails[:2]
    assert sorted(tails, reverse=True) == tails
    assert tails[-1] == 0.0

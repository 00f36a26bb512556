# SPDX-License-Identifier: Apache-2.0
"""The tail of the chi-squared distribution, exact for whole degrees of freedom.

Both series are finite, so no statistics library is loaded for one function. Abramowitz and Stegun,
Handbook of Mathematical Functions, 26.4.4 (odd degrees) and 26.4.5 (even degrees).
"""

from __future__ import annotations

import math


def chi_squared_tail(x: float, degrees: int) -> float:
    """P(X > x) for chi-squared with `degrees` >= 1."""
    half = max(x, 0.0) / 2
    odd = degrees % 2
    # The terms are half**j / gamma(j + 1), for j = 0, 1, ... or j = 1/2, 3/2, ...
    term = math.sqrt(half) / math.gamma(1.5) if odd else 1.0
    total = 0.0
    for step in range(degrees // 2):
        total += term
        term *= half / (step + 1.5 if odd else step + 1.0)
    return min(1.0, (math.erfc(math.sqrt(half)) if odd else 0.0) + math.exp(-half) * total)

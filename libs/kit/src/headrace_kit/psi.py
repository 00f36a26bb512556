# SPDX-License-Identifier: Apache-2.0
"""How far two samples lie apart, by the counts of their values in common bins.

PSI of two samples of one distribution is chi-squared(B - 1) x (1/N + 1/M): that gives a p-value
for any sample size, and a null mean that is taken off. The monitor judges windows by it, ingest
compares datasets: one number means one thing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headrace_kit.chi_squared import chi_squared_tail

SMOOTHING = 0.5
# Below this the chi-squared approximation is poor: such bins are merged (Cochran 1954).
EXPECTED_MIN = 5.0

Counts = NDArray[np.int64]


def calibrated_psi(
    reference: Counts, current: Counts, effective_rows: float = 0.0
) -> tuple[float, float]:
    """PSI without its null mean, and its p-value; both [bins] of one feature."""
    reference, current = _merge_rare_bins(reference, current)
    bins = len(reference)
    if bins < 2:
        return 0.0, 1.0
    scale = 1 / int(reference.sum()) + 1 / int(current.sum())
    if effective_rows > 0:
        scale = max(scale, 1 / effective_rows)
    psi = float(np.sum(psi_parts(reference, current)[1]))
    return psi - (bins - 1) * scale, chi_squared_tail(psi / scale, bins - 1)


def psi_parts(reference: Counts, current: Counts) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Of each bin, whether its share grew, and what it adds to the PSI."""
    expected, found = _shares(reference), _shares(current)
    return found > expected, (found - expected) * np.log(found / expected)


def _shares(counts: Counts) -> NDArray[np.float64]:
    smoothed = counts + SMOOTHING
    return np.asarray(smoothed / smoothed.sum(), np.float64)


def _merge_rare_bins(reference: Counts, current: Counts) -> tuple[Counts, Counts]:
    """Puts bins of too few expected rows together; which ones depends on both samples pooled.

    A bin that is empty on both sides must vanish: smoothing alone would see a difference in it.
    """
    pooled = reference + current
    smaller = min(reference.sum(), current.sum())
    rare = pooled * smaller < EXPECTED_MIN * pooled.sum()
    if not rare.any():
        return reference, current
    kept = [np.append(side[~rare], side[rare].sum()) for side in (reference, current)]
    merged = kept[0][-1] + kept[1][-1]
    if merged * smaller < EXPECTED_MIN * pooled.sum() and len(kept[0]) > 1:
        # Still rare together: they join the smallest of the others.
        target = int(np.argmin(kept[0][:-1] + kept[1][:-1]))
        for side in kept:
            side[target] += side[-1]
        kept = [side[:-1] for side in kept]
    return kept[0], kept[1]

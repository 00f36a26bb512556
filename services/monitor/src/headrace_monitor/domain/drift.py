# SPDX-License-Identifier: Apache-2.0
"""Calibrated drift: does a window differ from the rows that the served version was trained on?

Counters in bins fixed on the reference are all that is kept, so they merge over batches, windows
and replicas. PSI of two samples of one distribution is chi-squared(B - 1) x (1/N + 1/M): that gives
a p-value for any sample size, and a null mean that is taken off before the floor is asked. Where
rows resemble their neighbours (one day has one weather) the scale is that of the reference's own
windows. A window drifts when a feature is significant by Benjamini-Hochberg and beyond the floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.application import DriftRule
from headrace_monitor.domain.chi_squared import chi_squared_tail

SMOOTHING = 0.5
# Below this the chi-squared approximation is poor: such bins are merged (Cochran 1954).
EXPECTED_MIN = 5.0

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Reference counts of one feature; bin i holds edges[i-1] <= x < edges[i], the last one NaN."""

    feature: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    # Independent rows that a window is worth; 0: as many as it has.
    effective_rows: float = 0.0


@dataclass(frozen=True, slots=True)
class Reference:
    """What a version was trained on: its inputs in order, and the histograms of those watched."""

    features: tuple[str, ...]
    histograms: tuple[Histogram, ...]

    def counters(self) -> Counts:
        """Zero counts: the bins of each histogram, one after the other."""
        return np.zeros(sum(len(one.counts) for one in self.histograms), np.int64)


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """PSI with its null mean taken off, and the chance of so much without drift."""

    feature: str
    psi: float
    p_value: float


@dataclass(frozen=True, slots=True)
class DriftJudgement:
    """One window against the reference; `beyond` are the features that drifted, `tested` all."""

    rows: int
    tested: tuple[FeatureDrift, ...]
    beyond: tuple[FeatureDrift, ...]


def count_rows(reference: Reference, rows: NDArray[np.float32]) -> Counts:
    """Counters of rows [n, features]; add them up to merge."""
    counters = []
    column_by_feature = {feature: i for i, feature in enumerate(reference.features)}
    for histogram in reference.histograms:
        values = rows[:, column_by_feature[histogram.feature]].astype(np.float64)
        bins = np.searchsorted(histogram.edges, values, side="right")
        bins[np.isnan(values)] = len(histogram.counts) - 1
        counters.append(np.bincount(bins, minlength=len(histogram.counts)))
    return np.concatenate(counters) if counters else np.zeros(0, np.int64)


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
    expected, found = _shares(reference), _shares(current)
    psi = float(np.sum((found - expected) * np.log(found / expected)))
    return psi - (bins - 1) * scale, chi_squared_tail(psi / scale, bins - 1)


def benjamini_hochberg(p_values: Sequence[float], q: float) -> list[bool]:
    """Which hypotheses fall, the share of false ones among them <= q on average (BH 1995)."""
    ascending = sorted(range(len(p_values)), key=lambda i: p_values[i])
    fallen = 0
    for rank, i in enumerate(ascending, start=1):
        if p_values[i] <= q * rank / len(p_values):
            fallen = rank
    significant = set(ascending[:fallen])
    return [i in significant for i in range(len(p_values))]


def judge_drift(reference: Reference, counters: Counts, rule: DriftRule) -> DriftJudgement | None:
    """None when the window holds fewer rows than the rule needs."""
    ends = np.cumsum([len(one.counts) for one in reference.histograms])
    by_feature = dict(zip(reference.histograms, np.split(counters, ends[:-1]), strict=True))
    rows = int(counters[: ends[0]].sum()) if len(ends) else 0
    if rows < rule.rows_min:
        return None
    tested = []
    for histogram, current in by_feature.items():
        if histogram.feature not in rule.ignore and any(histogram.counts):
            counts = np.array(histogram.counts, np.int64)
            psi, p_value = calibrated_psi(counts, current, histogram.effective_rows)
            tested.append(FeatureDrift(histogram.feature, psi, p_value))
    significant = benjamini_hochberg([one.p_value for one in tested], rule.q)
    beyond = tuple(
        one
        for one, falls in zip(tested, significant, strict=True)
        if falls and one.psi >= rule.psi_floor
    )
    return DriftJudgement(rows, tuple(tested), beyond)


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

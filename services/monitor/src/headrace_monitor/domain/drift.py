# SPDX-License-Identifier: Apache-2.0
"""Calibrated drift: does a window differ from the rows that the served version was trained on?

Counters in bins fixed on the reference are all that is kept, so they merge over batches, windows
and replicas. The kit's calibrated PSI compares them; where rows resemble their neighbours (one day
has one weather) its scale is that of the reference's own windows. A window drifts when a feature is
significant by Benjamini-Hochberg and beyond the floor.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.application import DriftRule
from headrace_kit.psi import Counts, calibrated_psi, psi_parts


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


@dataclass(frozen=True, slots=True)
class Bin:
    """Values in [at_least, below), None: without that bound; of `absent`: those that are none."""

    at_least: float | None = None
    below: float | None = None
    absent: bool = False


@dataclass(frozen=True, slots=True)
class DriftedFeature:
    """The bins of a feature whose shares grew most; `place` in the version's inputs."""

    feature: str
    place: int
    bins: tuple[Bin, ...]


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
    counted = _by_histogram(reference, counters)
    rows = int(counted[0][1].sum()) if counted else 0
    if rows < rule.rows_min:
        return None
    tested = []
    for histogram, current in counted:
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


def drifted_features(
    reference: Reference, counters: Counts, features: Collection[str]
) -> tuple[DriftedFeature, ...]:
    """Of these features, the bins that hold more of the window than of the reference.

    Of the bins that grew, those that add to the PSI at least half of what these do on average:
    some grow a little by chance.
    """
    found = []
    for histogram, current in _by_histogram(reference, counters):
        if histogram.feature not in features:
            continue
        counts = np.array(histogram.counts, np.int64)
        grew, parts = psi_parts(counts, current)
        if grew.any():
            chosen = np.flatnonzero(grew & (parts >= parts[grew].mean() / 2))
            bins = tuple(_bin(histogram, int(i)) for i in chosen)
            place = reference.features.index(histogram.feature)
            found.append(DriftedFeature(histogram.feature, place, bins))
    return tuple(found)


def _by_histogram(reference: Reference, counters: Counts) -> list[tuple[Histogram, Counts]]:
    ends = np.cumsum([len(one.counts) for one in reference.histograms])
    return list(zip(reference.histograms, np.split(counters, ends[:-1]), strict=True))


def _bin(histogram: Histogram, number: int) -> Bin:
    edges = histogram.edges
    if number > len(edges):
        return Bin(absent=True)
    return Bin(
        at_least=edges[number - 1] if number else None,
        below=edges[number] if number < len(edges) else None,
    )

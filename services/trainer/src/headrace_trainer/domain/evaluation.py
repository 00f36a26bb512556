# SPDX-License-Identifier: Apache-2.0
"""What is measured of a model: ranking, likelihood, and the reference windows for drift."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headrace_trainer.domain.run import Histogram

REFERENCE_BINS = 10
REFERENCE_WINDOWS_MIN = 4
SMOOTHING = 0.5
_PROBABILITY_MIN = 1e-7


def auc(scores: NDArray[np.floating], labels: NDArray[np.floating]) -> float:
    """Area under the ROC curve by the rank sum, ties at their mean rank (Mann and Whitney 1947).

    scores, labels: [rows]; labels 0 or 1, both present.
    """
    _, position, ties = np.unique(scores, return_inverse=True, return_counts=True)
    last_rank = np.cumsum(ties)
    mean_rank = last_rank - (ties - 1) / 2
    positive = labels > 0.5
    positives, negatives = int(positive.sum()), int((~positive).sum())
    rank_sum = float(mean_rank[position][positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def log_loss(scores: NDArray[np.floating], labels: NDArray[np.floating]) -> float:
    """Mean negative log likelihood in nats; scores are probabilities [rows]."""
    p = np.clip(scores.astype(np.float64), _PROBABILITY_MIN, 1 - _PROBABILITY_MIN)
    return float(-np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p)))


def reference_histogram(
    feature: str, values: NDArray[np.float32], window: NDArray[np.int64] | None = None
) -> Histogram:
    """Ten bins of equal share on the training rows; fewer when values are tied.

    values: [rows]; window: [rows], the number of each row's window, ascending, if one is watched.
    """
    finite = values[~np.isnan(values)].astype(np.float64)
    shares = np.linspace(0, 1, REFERENCE_BINS + 1)[1:-1]
    # Unique edges: a value that fills several bins would leave the ones between it empty forever.
    edges = np.unique(np.quantile(finite, shares)) if finite.size else np.empty(0)
    bins = np.searchsorted(edges, values.astype(np.float64), side="right")
    bins[np.isnan(values)] = len(edges) + 1
    counts = np.bincount(bins, minlength=len(edges) + 2)
    effective_rows = 0.0 if window is None else _effective_rows(bins, counts, window)
    return Histogram(feature, tuple(edges.tolist()), tuple(counts.tolist()), effective_rows)


def _effective_rows(
    bins: NDArray[np.intp], counts: NDArray[np.intp], window: NDArray[np.int64]
) -> float:
    """(bins - 1) / the mean PSI of the whole windows against all rows; 0 for too few windows.

    PSI of n independent rows has the mean (bins - 1) / n, so this is the n that the windows
    behave like. The first and the last window are partial.
    """
    _, first, position = np.unique(window, return_index=True, return_inverse=True)
    if len(first) < REFERENCE_WINDOWS_MIN + 2:
        return 0.0
    size = len(counts)
    parts = np.bincount(position * size + bins, minlength=len(first) * size).reshape(-1, size)
    parts, counts = parts[1:-1, counts > 0], counts[counts > 0]
    expected = _smoothed(counts[None, :])
    found = _smoothed(parts)
    psi = float(np.mean(np.sum((found - expected) * np.log(found / expected), axis=1)))
    return (len(counts) - 1) / psi if psi > 0 else 0.0


def _smoothed(counts: NDArray[np.intp]) -> NDArray[np.float64]:
    shares = counts + SMOOTHING
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), np.float64)

# SPDX-License-Identifier: Apache-2.0
"""What is measured of a model: ranking, likelihood, and the reference windows for drift."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headrace_trainer.domain.run import Histogram

REFERENCE_BINS = 10
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


def reference_histogram(feature: str, values: NDArray[np.float32]) -> Histogram:
    """Ten bins of equal share on the training rows; fewer when values are tied. values: [rows]."""
    finite = values[~np.isnan(values)].astype(np.float64)
    shares = np.linspace(0, 1, REFERENCE_BINS + 1)[1:-1]
    # Unique edges: a value that fills several bins would leave the ones between it empty forever.
    edges = np.unique(np.quantile(finite, shares)) if finite.size else np.empty(0)
    counts = np.bincount(np.searchsorted(edges, finite, side="right"), minlength=len(edges) + 1)
    missing = int(values.size - finite.size)
    return Histogram(feature, tuple(edges.tolist()), (*counts.tolist(), missing))

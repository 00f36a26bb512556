# SPDX-License-Identifier: Apache-2.0
"""Quality of scores against outcomes: a function of the set of pairs, whatever their order.

AUC is exact: pairs are counted in integers. Sums are taken in the order of the scores, so that a
replay in another order gives the same number bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PROBABILITY_MIN = 1e-7


@dataclass(frozen=True, slots=True)
class Quality:
    """`auc` is None without both classes, `log_loss` (nats) without any row."""

    labelled: int
    positives: int
    auc: float | None
    log_loss: float | None


def measure(scores: NDArray[np.float32], outcomes: NDArray[np.uint8]) -> Quality:
    """scores [n], outcomes [n] of 0 or 1; ties count half (Mann and Whitney 1947)."""
    distinct, group = np.unique(scores, return_inverse=True)
    positive = np.bincount(group, weights=outcomes, minlength=len(distinct)).astype(np.int64)
    negative = np.bincount(group, minlength=len(distinct)) - positive
    positives, negatives = int(positive.sum()), int(negative.sum())
    auc = log_loss = None
    if positives and negatives:
        below = np.cumsum(negative) - negative
        auc = int(np.sum(positive * (2 * below + negative))) / (2 * positives * negatives)
    if len(scores):
        losses = positive * nats(distinct, 1) + negative * nats(distinct, 0)
        log_loss = float(losses.sum()) / len(scores)
    return Quality(positives + negatives, positives, auc, log_loss)


def nats(scores: NDArray[np.float32], outcomes: NDArray[np.uint8] | int) -> NDArray[np.float64]:
    """Log loss of each score."""
    p = np.clip(scores.astype(np.float64), PROBABILITY_MIN, 1 - PROBABILITY_MIN)
    return -np.where(np.asarray(outcomes) == 1, np.log(p), np.log1p(-p))

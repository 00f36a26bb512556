# SPDX-License-Identifier: Apache-2.0
"""The canary's judge: a betting e-process on paired outcomes, so that looking often is free.

Both versions scored the same labelled predictions; d is champion's log loss minus canary's, clipped
to one nat, so |d| <= 1. Against "the canary is not better", E[d] <= 0, wealth grows as the product
of 1 + bet x d; a mixture over fixed bets needs no guess of the effect. By Ville's inequality the
wealth ever reaches 1/alpha with probability <= alpha when the canary is not better (Waudby-Smith
and Ramdas 2024, "Estimating means of bounded random variables by betting"). Against "not worse" the
same with -d. When neither side has won after `outcomes_max`, the sign of the mean decides:
a version that passed its gate on fresher data takes over unless it looks worse (non-inferiority).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from headrace.application import RolloutRule
from headrace_monitor.domain.quality import nats

CLIP_NATS = 1.0
BETS = np.array([1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32])


class Decision(Enum):
    """What the registry shall do."""

    PROMOTE = "promote"
    ROLL_BACK = "roll back"


@dataclass(frozen=True, slots=True)
class CanaryJudgement:
    """The end of a trial."""

    decision: Decision
    outcomes: int
    e_better: float
    e_worse: float
    evidence: str


def judge_canary(
    champion: NDArray[np.float32],
    canary: NDArray[np.float32],
    outcomes: NDArray[np.uint8],
    rule: RolloutRule,
) -> CanaryJudgement | None:
    """Scores and outcomes [n] in the order of the predictions; None while it is undecided."""
    seen = min(len(outcomes), rule.outcomes_max)
    if seen < rule.outcomes_min:
        return None
    losses = [nats(scores[:seen], outcomes[:seen]) for scores in (champion, canary)]
    difference = np.clip(losses[0] - losses[1], -CLIP_NATS, CLIP_NATS)
    better, worse = e_process(difference), e_process(-difference)
    threshold = 1 / rule.alpha
    decided = (better >= threshold) | (worse >= threshold)
    decided[: rule.outcomes_min - 1] = False
    if not decided.any():
        if seen < rule.outcomes_max:
            return None
        decision = Decision.PROMOTE if difference.mean() >= 0 else Decision.ROLL_BACK
        last, why = seen - 1, f"no proof after {seen} outcomes, so the mean decides"
    else:
        last = int(np.argmax(decided))
        promote = bool(better[last] >= threshold)
        decision = Decision.PROMOTE if promote else Decision.ROLL_BACK
        why = f"the e-value of {'better' if promote else 'worse'} reached {threshold:.0f}"
    means = [float(loss[: last + 1].mean()) for loss in losses]
    evidence = (
        f"{why}: mean log loss of the champion {means[0]:.4f}, of the canary {means[1]:.4f} "
        f"on the same {last + 1} outcomes; e-values better {better[last]:.3g}, "
        f"worse {worse[last]:.3g}"
    )
    return CanaryJudgement(decision, last + 1, float(better[last]), float(worse[last]), evidence)


def e_process(difference: NDArray[np.float64]) -> NDArray[np.float64]:
    """e-values [n] against E[difference] <= 0 after each outcome; |difference| <= 1."""
    log_wealth = np.cumsum(np.log1p(np.outer(difference, BETS)), axis=0)
    # Beyond e**700 a float overflows; any such wealth has won long before.
    return np.asarray(np.exp(np.minimum(log_wealth, 700.0)).mean(axis=1), np.float64)

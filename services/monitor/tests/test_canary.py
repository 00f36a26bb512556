# SPDX-License-Identifier: Apache-2.0
"""The canary's judge: nothing early, proof when there is one, an error rate that holds."""

import numpy as np
import pytest

from headrace.application import RolloutRule
from headrace_monitor.domain.canary import Decision, e_process, judge_canary


def a_rule(**changes) -> RolloutRule:
    rule = {"canary_percent": 20, "outcomes_min": 100, "outcomes_max": 2_000, "alpha": 0.05}
    return RolloutRule(**(rule | changes))


def trial(rows: int, *, champion: float, canary: float, seed: int = 1):
    """Scores that move from a half towards the outcome's chance by these shares."""
    rng = np.random.default_rng(seed)
    chance = rng.uniform(0.05, 0.95, rows)
    outcomes = (rng.random(rows) < chance).astype(np.uint8)
    scores = [(0.5 + share * (chance - 0.5)).astype(np.float32) for share in (champion, canary)]
    return *scores, outcomes


def test_better_canary_is_promoted_by_proof():
    judged = judge_canary(*trial(2_000, champion=0.2, canary=0.9), a_rule())

    assert judged.decision is Decision.PROMOTE
    assert judged.e_better >= 20
    assert 100 <= judged.outcomes < 2_000


def test_worse_canary_is_rolled_back_by_proof():
    judged = judge_canary(*trial(2_000, champion=0.9, canary=0.2), a_rule())

    assert judged.decision is Decision.ROLL_BACK
    assert judged.e_worse >= 20
    assert judged.outcomes < 2_000


def test_nothing_is_decided_before_enough_outcomes():
    champion, canary, outcomes = trial(99, champion=0.0, canary=1.0)

    assert judge_canary(champion, canary, outcomes, a_rule()) is None


def test_no_proof_waits_until_the_last_outcome_and_then_the_mean_decides():
    same = trial(1_999, champion=0.5, canary=0.5)
    assert judge_canary(*same, a_rule()) is None

    equal = judge_canary(*trial(2_000, champion=0.5, canary=0.5), a_rule())
    assert (Decision.PROMOTE, 2_000) == (equal.decision, equal.outcomes)
    worse = judge_canary(*trial(2_000, champion=0.52, canary=0.5), a_rule(alpha=1e-9))
    assert (Decision.ROLL_BACK, 2_000) == (worse.decision, worse.outcomes)


def test_more_outcomes_than_asked_for_change_nothing():
    champion, canary, outcomes = trial(3_000, champion=0.5, canary=0.6)
    rule = a_rule(alpha=1e-9)

    first = judge_canary(champion[:2_000], canary[:2_000], outcomes[:2_000], rule)
    assert first == judge_canary(champion, canary, outcomes, rule)


def test_later_outcomes_do_not_move_an_early_decision():
    champion, canary, outcomes = trial(2_000, champion=0.2, canary=0.9)
    whole = judge_canary(champion, canary, outcomes, a_rule())
    until = slice(whole.outcomes)

    assert whole == judge_canary(champion[until], canary[until], outcomes[until], a_rule())


def test_looking_at_every_outcome_keeps_the_error_rate():
    """2,000 trials of an equal canary, looked at after each of 1,000 outcomes: <= alpha win."""
    rng = np.random.default_rng(5)
    won = sum(
        bool((e_process(np.clip(rng.normal(0, 0.3, 1_000), -1, 1)) >= 20).any())
        for _ in range(2_000)
    )

    assert won / 2_000 <= 0.05


@pytest.mark.parametrize("mean", [0.03, 0.05])
def test_small_gain_is_proved_within_some_thousand_outcomes(mean):
    rng = np.random.default_rng(6)
    proved = [
        (e_process(np.clip(rng.normal(mean, 0.3, 4_000), -1, 1)) >= 20).any() for _ in range(100)
    ]

    assert np.mean(proved) >= 0.9

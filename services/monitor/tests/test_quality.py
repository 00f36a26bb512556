# SPDX-License-Identifier: Apache-2.0
"""Quality is exact, and the same bit for bit in any order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_monitor.domain.quality import measure

pairs = st.lists(st.tuples(st.floats(0, 1, width=32), st.integers(0, 1)), min_size=1, max_size=60)


def measured(rows):
    scores, outcomes = zip(*rows, strict=True) if rows else ((), ())
    return measure(np.array(scores, np.float32), np.array(outcomes, np.uint8))


@given(pairs)
def test_auc_is_the_share_of_pairs_in_order(rows):
    positives = [score for score, outcome in rows if outcome]
    negatives = [score for score, outcome in rows if not outcome]
    if positives and negatives:
        won = sum((p > n) + (p == n) / 2 for p in positives for n in negatives)
        assert won / len(positives) / len(negatives) == pytest.approx(measured(rows).auc)
    else:
        assert measured(rows).auc is None


@given(pairs, st.randoms(use_true_random=False))
def test_order_of_rows_changes_no_bit(rows, random):
    shuffled = rows[:]
    random.shuffle(shuffled)

    assert measured(rows) == measured(shuffled)


def test_log_loss_is_in_nats_and_finite_at_the_ends():
    assert np.log(2) == pytest.approx(measured([(0.5, 1), (0.5, 0)]).log_loss)
    assert measured([(0.0, 1)]).log_loss == pytest.approx(-np.log(1e-7))
    assert measured([(1.0, 1)]).log_loss == pytest.approx(0, abs=1e-6)


def test_nothing_measured_is_absent_not_zero():
    quality = measured([])

    assert (0, 0, None, None) == (
        quality.labelled,
        quality.positives,
        quality.auc,
        quality.log_loss,
    )

# SPDX-License-Identifier: Apache-2.0
"""The measures agree with scikit-learn's and keep every row in some bin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from headrace_trainer.domain.evaluation import auc, log_loss, reference_histogram

SCORES = st.lists(st.integers(0, 6), min_size=4, max_size=60)


@given(SCORES, st.randoms(use_true_random=False))
def test_auc_equals_scikit_learns_with_ties(scores: list[int], random: object) -> None:
    labels = [0, 1, *(random.randint(0, 1) for _ in scores[2:])]

    assert metrics.roc_auc_score(labels, scores) == pytest.approx(
        auc(np.array(scores, np.float32), np.array(labels, np.float32))
    )


def test_log_loss_equals_scikit_learns() -> None:
    scores, labels = np.array([0.1, 0.8, 0.6]), np.array([0.0, 1.0, 0.0])

    assert metrics.log_loss(labels, scores) == pytest.approx(log_loss(scores, labels))


def test_log_loss_of_a_certain_mistake_is_finite() -> None:
    assert np.isfinite(log_loss(np.array([0.0, 1.0]), np.array([1.0, 0.0])))


def test_histogram_has_ten_equal_bins_and_one_for_absent_values() -> None:
    values = np.concatenate([np.arange(1000), [np.nan] * 7]).astype(np.float32)

    histogram = reference_histogram("x", values)

    assert (9, 11, 7) == (len(histogram.edges), len(histogram.counts), histogram.counts[-1])
    assert all(95 <= count <= 105 for count in histogram.counts[:-1])


@given(st.lists(st.floats(width=32, allow_infinity=False), max_size=200))
def test_histogram_counts_every_row_once(values: list[float]) -> None:
    histogram = reference_histogram("x", np.array(values, np.float32))

    assert len(values) == sum(histogram.counts)
    assert len(histogram.counts) == len(histogram.edges) + 2
    assert list(histogram.edges) == sorted(set(histogram.edges))


def windows_of(levels: np.ndarray, rows: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Values that lie about their window's own level, and the numbers of the windows."""
    rng = np.random.default_rng(4)
    values = np.concatenate([rng.normal(level, noise, rows) for level in levels])
    return values.astype(np.float32), np.repeat(np.arange(len(levels)), rows)


def test_independent_rows_are_worth_what_they_are() -> None:
    values, window = windows_of(np.zeros(60), 500, 1.0)

    assert reference_histogram("x", values, window).effective_rows == pytest.approx(500, rel=0.15)


def test_rows_that_resemble_their_neighbours_are_worth_less() -> None:
    values, window = windows_of(np.random.default_rng(5).normal(size=60), 500, 0.3)

    assert 1 < reference_histogram("x", values, window).effective_rows < 20


def test_effective_rows_are_not_measured_on_few_windows_or_without_any() -> None:
    values, window = windows_of(np.zeros(5), 500, 1.0)

    assert reference_histogram("x", values, window).effective_rows == 0
    assert reference_histogram("x", values).effective_rows == 0
    constant = np.ones(len(values), np.float32)
    assert reference_histogram("x", constant, np.arange(len(values)) // 10).effective_rows >= 0

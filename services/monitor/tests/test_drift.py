# SPDX-License-Identifier: Apache-2.0
"""Drift: counters that merge, a stated false-alarm rate, small shifts seen, floors kept."""

import numpy as np
import pytest

from headrace.application import DriftRule
from headrace_monitor.domain.drift import (
    Bin,
    Histogram,
    Reference,
    benjamini_hochberg,
    calibrated_psi,
    count_rows,
    drifted_features,
    judge_drift,
)
from headrace_monitor.domain.progress import Progress, WindowDrift


def a_rule(**changes) -> DriftRule:
    rule = {"q": 0.05, "psi_floor": 0.02, "rows_min": 100, "windows_bad": 3, "windows": 5}
    return DriftRule(**(rule | changes))


def a_reference(values: np.ndarray, bins: int = 10) -> Reference:
    """A reference as the trainer makes it: unique quantile edges, the last bin for NaN."""
    histograms = []
    for i, column in enumerate(values.T.astype(np.float64)):
        present = column[~np.isnan(column)]
        edges = np.unique(np.quantile(present, np.linspace(0, 1, bins + 1)[1:-1]))
        counts = np.bincount(
            np.searchsorted(edges, present, side="right"), minlength=len(edges) + 1
        )
        absent = len(column) - len(present)
        histograms.append(Histogram(f"f{i}", tuple(edges), (*map(int, counts), absent)))
    features = tuple(f"f{i}" for i in range(values.shape[1]))
    return Reference(features, tuple(histograms))


def normal(rows: int, features: int = 1, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, features)).astype(np.float32)


def test_counters_of_two_batches_merge_to_those_of_both():
    values = normal(1_000, 3)
    values[::7, 1] = np.nan
    reference = a_reference(values)

    parts = count_rows(reference, values[:300]) + count_rows(reference, values[300:])

    assert parts.tolist() == count_rows(reference, values).tolist()
    assert parts.tolist() == [n for one in reference.histograms for n in one.counts]


def test_value_on_an_edge_belongs_to_the_bin_above_it():
    reference = Reference(("f",), (Histogram("f", (0.0, 1.0), (1, 1, 1, 0)),))
    values = np.array([[-np.inf], [0.0], [0.5], [1.0], [np.inf], [np.nan]], np.float32)

    assert [1, 2, 2, 1] == count_rows(reference, values).tolist()


def test_features_are_counted_from_their_own_columns():
    reference = Reference(("a", "b"), (Histogram("b", (0.0,), (1, 1, 0)),))

    assert [0, 2, 0] == count_rows(reference, np.array([[-1, 1], [-1, 1]], np.float32)).tolist()


def test_same_distribution_has_a_psi_of_about_zero():
    reference = a_reference(normal(50_000))
    counts = np.array(reference.histograms[0].counts)
    found = [
        calibrated_psi(counts, count_rows(reference, normal(500, seed=seed)))[0]
        for seed in range(200)
    ]

    # Without the correction the mean is (B - 1) (1/N + 1/M) = 0.018.
    assert 0.0 == pytest.approx(np.mean(found), abs=0.002)


def test_bins_that_are_empty_on_both_sides_say_nothing():
    without = calibrated_psi(np.array([5_000, 5_000]), np.array([260, 240]))

    assert without == calibrated_psi(np.array([5_000, 0, 5_000, 0]), np.array([260, 0, 240, 0]))


def test_rows_that_resemble_their_neighbours_are_judged_by_the_references_own_windows():
    """30 days of 500 rows each; a day's rows lie about the day's own level, as weather does."""
    rng = np.random.default_rng(3)
    days = [rng.normal(level, 0.3, (500, 1)) for level in rng.normal(size=60)]
    plain = a_reference(np.concatenate(days[:30]))
    counts = np.array(plain.histograms[0].counts)
    windows = [count_rows(plain, day.astype(np.float32)) for day in days]
    mean_psi = np.mean([calibrated_psi(counts, one)[0] for one in windows[:30]])
    effective_rows = (len(counts) - 2) / mean_psi

    alone = [calibrated_psi(counts, one)[1] < 0.01 for one in windows[30:]]
    calibrated = [calibrated_psi(counts, one, effective_rows)[1] < 0.01 for one in windows[30:]]
    assert np.mean(alone) > 0.9
    assert np.mean(calibrated) < 0.1
    moved = count_rows(plain, (days[30] + 5).astype(np.float32))
    assert calibrated_psi(counts, moved, effective_rows)[1] < 0.05


def test_values_that_the_reference_never_had_are_drift():
    psi, p_value = calibrated_psi(np.array([500, 500, 0]), np.array([200, 200, 100]))

    assert psi > 1
    assert p_value < 1e-9


def test_alarm_needs_one_feature_in_enough_of_the_last_windows():
    progress, rule = Progress(), a_rule(windows_bad=2, windows=3)
    windows = [("a",), ("b",), (), ("b", "c"), ("b",), (), ()]
    alarms = [
        progress.note_drift(rule, WindowDrift(i, 1, names)) for i, names in enumerate(windows)
    ]

    assert [(), (), (), ("b",), ("b",), ("b",), ()] == alarms
    assert () == progress.note_drift(rule, WindowDrift(9, 2, ("b",))), "another version begins anew"


def test_feature_with_one_bin_cannot_drift():
    assert (0.0, 1.0) == calibrated_psi(np.array([1_000, 0]), np.array([100, 0]))


def test_shift_of_a_tenth_sd_is_seen_on_5000_rows():
    # FIELD (d): plain PSI >= 0.1 sees none of these shifts, the calibrated one 95 %.
    seen = plain = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        reference = a_reference(rng.normal(size=(5_000, 1)))
        current = count_rows(reference, rng.normal(0.1, size=(5_000, 1)).astype(np.float32))
        psi, p_value = calibrated_psi(np.array(reference.histograms[0].counts), current)
        seen += p_value < 0.05
        plain += psi >= 0.1

    assert seen >= 85
    assert plain == 0


def test_shipped_rule_keeps_its_false_alarm_rate_on_10000_null_windows():
    """6 features in windows of 500 rows against 5,000 reference rows, all of one distribution.

    Continuous, tied, rare and partly absent features. The bounds are FIELD (d)'s: at most 7 % of
    windows with any feature significant at q = 0.05 by Benjamini-Hochberg; the same feature in 3 of
    5 windows must be seldom.
    """
    rng = np.random.default_rng(20_130_101)
    features, windows_per_reference = 6, 100

    def sample(rows: int) -> np.ndarray:
        values = rng.normal(size=(rows, features))
        values[:, 2] = rng.poisson(2, size=rows)
        values[:, 3] = rng.random(rows) < 0.03
        values[:, 4][rng.random(rows) < 0.2] = np.nan
        return values.astype(np.float32)

    # The bins' true shares, from a sample so large that its own error does not count.
    truth = sample(400_000)
    significant = alarmed = 0
    for _ in range(100):
        reference = a_reference(sample(5_000))
        shares = np.split(count_rows(reference, truth) / len(truth), _bin_starts(reference))
        windows = np.hstack([rng.multinomial(500, one, windows_per_reference) for one in shares])
        progress = Progress()
        for number, window in enumerate(windows):
            beyond = judge_drift(reference, window, a_rule()).beyond
            seen = WindowDrift(number, 1, tuple(one.feature for one in beyond))
            significant += bool(beyond)
            alarmed += bool(progress.note_drift(a_rule(), seen))

    assert 0.02 < significant / 10_000 <= 0.07
    assert alarmed / 10_000 <= 0.005


def _bin_starts(reference: Reference) -> np.ndarray:
    return np.cumsum([len(one.counts) for one in reference.histograms])[:-1]


def test_significant_shift_below_the_floor_is_no_drift():
    reference = a_reference(normal(50_000))
    counters = count_rows(reference, normal(20_000, seed=1) + np.float32(0.05))

    judged = judge_drift(reference, counters, a_rule(psi_floor=0.1))

    assert judged.tested[0].p_value < 1e-3
    assert () == judged.beyond


def test_window_with_too_few_rows_is_not_judged():
    reference = a_reference(normal(1_000))

    assert judge_drift(reference, count_rows(reference, normal(99)), a_rule()) is None
    assert judge_drift(reference, count_rows(reference, normal(100)), a_rule()) is not None


def test_ignored_feature_is_not_tested():
    reference = a_reference(normal(1_000, 2))
    shifted = count_rows(reference, normal(500, 2, seed=1) + np.array([9, 0], np.float32))

    assert ["f0"] == [one.feature for one in judge_drift(reference, shifted, a_rule()).beyond]
    assert () == judge_drift(reference, shifted, a_rule(ignore=("f0",))).beyond


def test_benjamini_hochberg_takes_all_up_to_the_last_that_holds():
    # The example of Benjamini and Hochberg (1995): the first four of fifteen at q = 0.05.
    p_values = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240,
                0.4262, 0.5719, 0.6528, 0.7590, 1.0]  # fmt: skip

    assert [True] * 4 + [False] * 11 == benjamini_hochberg(p_values, 0.05)
    assert [] == benjamini_hochberg([], 0.05)


def test_bins_that_grew_most_are_told_with_their_bounds():
    histogram = Histogram("g", (0.0, 1.0), (40, 30, 25, 5))
    reference = Reference(("f", "g"), (histogram,))

    def bins(*current):
        [drifted] = drifted_features(reference, np.array(current), ["g"])
        assert ("g", 1) == (drifted.feature, drifted.place)
        return drifted.bins

    assert (Bin(at_least=1.0),) == bins(200, 310, 465, 25)
    assert (Bin(below=0.0),) == bins(900, 50, 45, 5)
    assert (Bin(at_least=0.0, below=1.0),) == bins(100, 850, 40, 10)
    assert (Bin(absent=True),) == bins(200, 150, 125, 525)
    assert (Bin(below=0.0), Bin(at_least=1.0)) == bins(560, 30, 400, 10)


def test_feature_that_is_not_asked_for_or_did_not_change_has_no_bins():
    reference = Reference(("f",), (Histogram("f", (0.0,), (50, 50, 0)),))

    assert () == drifted_features(reference, np.array([10, 90, 0]), [])
    assert () == drifted_features(reference, np.array([50, 50, 0]), ["f"])


def test_drifted_bins_hold_the_rows_that_are_more_than_before():
    before, now = normal(5_000), normal(5_000, seed=8) + np.float32(1.5)
    reference = a_reference(before)
    [drifted] = drifted_features(reference, count_rows(reference, now), ["f0"])

    def share(rows):
        return np.mean(
            [
                any(
                    (each.at_least is None or each.at_least <= value)
                    and (each.below is None or value < each.below)
                    for each in drifted.bins
                )
                for value in rows[:, 0]
            ]
        )

    assert share(before) < 0.25 < 0.5 < share(now)

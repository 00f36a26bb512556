# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest

from headrace.application import GateRule
from headrace_registry.domain.acceptance import Finding
from headrace_registry.domain.gate import Gate, evaluate

RULE = GateRule(holdout="7d", auc_min=0.7, champion_margin=0.01)


def gate(**metrics: float) -> Gate:
    return evaluate(RULE, metrics, 3, ())


def test_what_was_found_in_the_file_counts_too() -> None:
    found = (Finding(True, "It ran."), Finding(False, "Not finite: y."))

    failed = evaluate(RULE, {"auc": 0.9}, 0, found)

    assert (False, ("It ran.", "Not finite: y.")) == (failed.passed, failed.evidence[-2:])


def test_auc_at_the_bound_passes() -> None:
    assert gate(auc=0.7).passed


def test_auc_below_the_bound_fails_and_both_numbers_are_told() -> None:
    failed = gate(auc=0.6999, rows=812.0)

    assert not failed.passed
    assert "AUC must reach 0.7000; measured 0.6999 on 812 rows." in failed.evidence


def test_absent_auc_fails() -> None:
    failed = gate(log_loss=0.5)

    assert not failed.passed
    assert "AUC must reach 0.7000; it was not measured." in failed.evidence


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_any_metric_that_is_not_finite_fails_and_is_named(value: float) -> None:
    failed = gate(auc=0.8, log_loss=value)

    assert not failed.passed
    assert "Every metric must be finite; not finite: log_loss." in failed.evidence


@pytest.mark.parametrize(("auc", "passed"), [(0.76, True), (0.75, True), (0.7399, False)])
def test_champion_may_be_missed_by_the_margin_and_no_more(auc: float, *, passed: bool) -> None:
    assert passed == gate(auc=auc, champion_auc=0.75).passed


def test_evidence_names_the_champion_and_the_floor() -> None:
    assert (
        "AUC must reach that of champion v3 less 0.0100: 0.7500 - 0.0100 = 0.7400; measured 0.7600."
        == gate(auc=0.76, champion_auc=0.75).evidence[-1]
    )


def test_absolute_bound_holds_beside_a_bad_champion() -> None:
    assert not gate(auc=0.65, champion_auc=0.5).passed


def test_without_a_champion_there_is_no_sentence_about_one() -> None:
    assert 2 == len(gate(auc=0.75).evidence)

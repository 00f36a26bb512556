# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from dataclasses import replace

import pytest

from headrace.application import GateRule
from headrace_registry.domain.acceptance import Acceptance, Finding
from headrace_registry.domain.gate import Gate, evaluate
from headrace_registry.domain.signature import Signature

FILE = Acceptance(Signature((), ()), ())
RULE = GateRule(holdout="7d", auc_min=0.7, champion_margin=0.01)

BUDGET = RULE.model_copy(update={"latency_ms_max": 5.0})


def gate(**metrics: float) -> Gate:
    return evaluate(RULE, metrics, 3, FILE)


def test_what_was_found_in_the_file_counts_too() -> None:
    found = (Finding(True, "It ran."), Finding(False, "Not finite: y."))

    failed = evaluate(RULE, {"auc": 0.9}, 0, replace(FILE, findings=found))

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


@pytest.mark.parametrize(("took_ms", "passed"), [(4.9, True), (5.0, True), (5.001, False)])
def test_slow_version_fails_where_the_gate_has_a_latency_budget(
    took_ms: float, *, passed: bool
) -> None:
    found = evaluate(BUDGET, {"auc": 0.9, "latency_ms": took_ms}, 0, FILE)

    assert passed == found.passed
    told = f"Latency must be at most 5 ms; measured {took_ms:.3f} ms."
    assert told == found.evidence[-1]


def test_absent_latency_fails_where_the_gate_has_a_budget() -> None:
    failed = evaluate(BUDGET, {"auc": 0.9}, 0, FILE)

    assert not failed.passed
    assert "Latency must be at most 5 ms; it was not measured." in failed.evidence


def test_without_a_budget_no_version_is_too_slow() -> None:
    assert gate(auc=0.75, latency_ms=1e6).passed


def test_without_a_champion_there_is_no_sentence_about_one() -> None:
    assert 2 == len(gate(auc=0.75).evidence)

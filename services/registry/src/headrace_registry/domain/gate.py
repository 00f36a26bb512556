# SPDX-License-Identifier: Apache-2.0
"""The gate: what a version must show on its holdout before an alias may point to it (P6).

Each rule leaves one sentence with its numbers, passed or not: the evidence that people read. A
version that was trained elsewhere is judged by its model's gate on the metrics that came with it,
and may also have to be approved by somebody.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from headrace.application import GateRule
from headrace.model_definition import MetricRule, ModelGate
from headrace_registry.domain.acceptance import Acceptance


class GateState(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    AWAITS_APPROVAL = "awaits_approval"
    AWAITS_SIGNATURE = "awaits_signature"
    RETRACTED = "retracted"


@dataclass(frozen=True, slots=True)
class Gate:
    """The result of a gate, with one sentence for each rule; `approver` said yes where asked."""

    state: GateState
    evidence: tuple[str, ...]
    approver: str = ""

    @property
    def passed(self) -> bool:
        return self.state is GateState.PASSED

    def approved(self, approver: str, reason: str) -> Gate:
        """The gate, opened by somebody, whose words become evidence."""
        said = f"Approved by {approver}" + (f": {reason}" if reason else ".")
        return Gate(GateState.PASSED, (*self.evidence, said), approver)

    def retracted(self, caller: str, reason: str) -> Gate:
        """The gate, shut for good, whatever was judged before."""
        said = f"Taken back by {caller}" + (f": {reason}" if reason else ".")
        return Gate(GateState.RETRACTED, (*self.evidence, said), self.approver)

    def signed(self, signer: str, *, approval: bool) -> Gate:
        """The gate once somebody who is trusted vouches for the version."""
        state = GateState.AWAITS_APPROVAL if approval else GateState.PASSED
        return Gate(state, (*self.evidence, f"Signed by {signer}."), self.approver)


def evaluate(
    rule: GateRule,
    metrics: Mapping[str, float],
    champion_version: int,
    accepted: Acceptance,
) -> Gate:
    """`metrics` as the run measured them: auc, latency_ms, and champion_auc beside a champion."""
    results = [_finite(metrics), _auc(rule, metrics)]
    if "champion_auc" in metrics:
        results.append(_champion(rule, metrics, champion_version))
    if rule.latency_ms_max is not None:
        results.append(_latency(rule.latency_ms_max, metrics.get("latency_ms")))
    best = GateState.AWAITS_SIGNATURE if rule.require_signature else GateState.PASSED
    return _gate(results, accepted, best)


def evaluate_registered(
    rule: ModelGate, metrics: Mapping[str, float], accepted: Acceptance
) -> Gate:
    """`metrics` as the caller gave them; each that a rule names must be there. How long the file
    runs is not asked of the caller.
    """
    results = [_finite(metrics)]
    results += [_metric(name, each, metrics) for name, each in sorted(rule.metrics.items())]
    if rule.latency_ms_max is not None:
        results.append(_latency(rule.latency_ms_max, accepted.latency_ms))
    best = GateState.AWAITS_APPROVAL if rule.approval else GateState.PASSED
    if rule.require_signature:
        best = GateState.AWAITS_SIGNATURE
    return _gate(results, accepted, best)


def _gate(results: Iterable[tuple[bool, str]], accepted: Acceptance, best: GateState) -> Gate:
    found = [(each.passed, each.sentence) for each in accepted.findings]
    passed, evidence = zip(*results, *found, strict=True)
    return Gate(best if all(passed) else GateState.FAILED, evidence)


def _metric(name: str, rule: MetricRule, metrics: Mapping[str, float]) -> tuple[bool, str]:
    least = [] if rule.min is None else [f"at least {rule.min:g}"]
    most = [] if rule.max is None else [f"at most {rule.max:g}"]
    asked = f"{name} must be {' and '.join(least + most)}"
    if name not in metrics:
        return False, f"{asked}; it was not given."
    value = metrics[name]
    low, high = rule.min, rule.max
    holds = (low is None or value >= low) and (high is None or value <= high)
    return holds, f"{asked}; given {value:g}."


def _finite(metrics: Mapping[str, float]) -> tuple[bool, str]:
    bad = sorted(name for name, value in metrics.items() if not math.isfinite(value))
    if bad:
        return False, f"Every metric must be finite; not finite: {', '.join(bad)}."
    return True, f"Every metric must be finite; all {len(metrics)} are."


def _auc(rule: GateRule, metrics: Mapping[str, float]) -> tuple[bool, str]:
    asked = f"AUC must reach {rule.auc_min:.4f}"
    if "auc" not in metrics:
        return False, f"{asked}; it was not measured."
    auc = metrics["auc"]
    return auc >= rule.auc_min, f"{asked}; measured {auc:.4f}{_rows(metrics)}."


def _latency(most_ms: float, took_ms: float | None) -> tuple[bool, str]:
    asked = f"Latency must be at most {most_ms:g} ms"
    if took_ms is None:
        return False, f"{asked}; it was not measured."
    return took_ms <= most_ms, f"{asked}; measured {took_ms:.3f} ms."


def _rows(metrics: Mapping[str, float]) -> str:
    rows = metrics.get("rows", math.nan)
    return f" on {rows:.0f} rows" if math.isfinite(rows) else ""


def _champion(
    rule: GateRule, metrics: Mapping[str, float], champion_version: int
) -> tuple[bool, str]:
    champion_auc, auc = metrics["champion_auc"], metrics.get("auc", math.nan)
    floor = champion_auc - rule.champion_margin
    sentence = (
        f"AUC must reach that of champion v{champion_version} less {rule.champion_margin:.4f}: "
        f"{champion_auc:.4f} - {rule.champion_margin:.4f} = {floor:.4f}; measured {auc:.4f}."
    )
    return auc >= floor, sentence

# SPDX-License-Identifier: Apache-2.0
"""The gate: what a version must show on its holdout before an alias may point to it (P6).

Each rule leaves one sentence with its numbers, passed or not: the evidence that people read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from headrace.application import GateRule


@dataclass(frozen=True, slots=True)
class Gate:
    """The result of a gate, with one sentence for each rule."""

    passed: bool
    evidence: tuple[str, ...]


def evaluate(rule: GateRule, metrics: Mapping[str, float], champion_version: int) -> Gate:
    """`metrics` as the run measured them: auc, and champion_auc when a champion was there."""
    results = [_finite(metrics), _auc(rule, metrics)]
    if "champion_auc" in metrics:
        results.append(_champion(rule, metrics, champion_version))
    return Gate(all(passed for passed, _ in results), tuple(sentence for _, sentence in results))


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

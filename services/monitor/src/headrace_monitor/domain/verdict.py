# SPDX-License-Identifier: Apache-2.0
"""Verdicts: the results of comparisons, as the platform and people see them."""

from __future__ import annotations

from dataclasses import dataclass

from headrace_monitor.domain.canary import Decision
from headrace_monitor.domain.drift import FeatureDrift


@dataclass(frozen=True, slots=True)
class Judged:
    """What was judged: a version of an endpoint's model in a window."""

    verdict_id: str
    monitor: str
    endpoint: str
    model: str
    version: int
    window_end_us: int
    judged_at_us: int


@dataclass(frozen=True, slots=True)
class DriftVerdict:
    """`features` are those that drifted; `strongest` of all that were tested, for people."""

    judged: Judged
    rows: int
    features: tuple[FeatureDrift, ...]
    strongest: FeatureDrift | None
    alarmed: bool
    evidence: str


@dataclass(frozen=True, slots=True)
class QualityVerdict:
    """The version's AUC on the last windows together against its holdout's."""

    judged: Judged
    degraded: bool
    labelled: int
    auc: float
    auc_reference: float
    evidence: str


@dataclass(frozen=True, slots=True)
class CanaryVerdict:
    """The end of a canary's trial; the registry acts on it."""

    judged: Judged
    canary_version: int
    generation: int
    decision: Decision
    outcomes: int
    e_better: float
    e_worse: float
    evidence: str


Verdict = DriftVerdict | QualityVerdict | CanaryVerdict

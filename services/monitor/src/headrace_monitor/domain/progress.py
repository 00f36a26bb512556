# SPDX-License-Identifier: Apache-2.0
"""How far a monitor has come, and the short memory that its alarms need."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from headrace.application import DriftRule

LONG_AGO_US = -(1 << 62)


@dataclass(frozen=True, slots=True)
class WindowDrift:
    """The features of a window that differed from the reference of a version."""

    window_end_us: int
    version: int
    features: tuple[str, ...]


@dataclass(slots=True)
class Progress:
    """Mutable: one batch of records changes it many times. All times are event or known time."""

    # Everything known up to here was folded and judged.
    evaluated_until_us: int = LONG_AGO_US
    # Predictions that mature before this and have no label count as 1: their label will not come.
    absent_until_us: int = LONG_AGO_US
    # Ends of the newest windows judged for drift, and for quality and canary.
    drift_until_us: int = LONG_AGO_US
    outcomes_until_us: int = LONG_AGO_US
    # Windows before this were evidence for an incident already.
    quality_spent_until_us: int = LONG_AGO_US
    drifts: list[WindowDrift] = field(default_factory=list)
    # Of the monitored endpoint: predictions seen and those whose outcome is known.
    predictions: int = 0
    labelled: int = 0
    # Of all endpoints and of the spine's and the label's stream: what was read, for people.
    predictions_folded: int = 0
    # One entity has a bounded number of predictions; those beyond are not joined.
    predictions_refused: int = 0
    records_folded: int = 0

    def note_drift(self, rule: DriftRule, seen: WindowDrift) -> tuple[str, ...]:
        """Keeps the last windows of this version; the features that drifted in enough of them.

        Chance moves one feature today and another tomorrow; a change of the world stays with one.
        """
        same = [one for one in self.drifts if one.version == seen.version]
        self.drifts = [*same, seen][-rule.windows :]
        windows_by_feature = Counter(name for one in self.drifts for name in one.features)
        bad = (name for name, count in windows_by_feature.items() if count >= rule.windows_bad)
        return tuple(sorted(bad))


@dataclass(slots=True)
class Window:
    """A window that is not judged yet: what its newest generation served."""

    generation: int = 0
    champion: int = 0
    canary: int = 0
    drift_judged: bool = False

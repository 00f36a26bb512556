# SPDX-License-Identifier: Apache-2.0
"""What the monitor knows of a model version since it was registered."""

from __future__ import annotations

from dataclasses import dataclass

from headrace_monitor.domain.drift import Reference


@dataclass(frozen=True, slots=True)
class KnownVersion:
    """A version, the run that made it, and what it is compared with; `auc` is its holdout's."""

    model: str
    version: int
    run_id: str
    trained_until_us: int
    auc: float | None
    reference: Reference

# SPDX-License-Identifier: Apache-2.0
"""A training run and the lease that lets one worker at a time carry it.

The request's id is the run's id, so a repeated request meets its own run (P14). A lease has a token
that grows with each claim: whoever holds an older one can write nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class RunState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """A wish for a run: train `recipe` on what was known until then (us since the epoch)."""

    request_id: str
    recipe: str
    known_until_us: int
    incident_id: str = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to carry a run; valid only while no later token was given."""

    run_id: str
    token: int


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of training rows between inner `edges`, ascending; the last count is of NaN."""

    feature: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    # Independent rows that a window of the monitor is worth; 0: not measured.
    effective_rows: float = 0.0


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """What a run made, with the evidence for its gate."""

    model: str
    digest: str
    features: tuple[str, ...]
    trained_until_us: int
    metrics: dict[str, float]
    champion_version: int
    reference: tuple[Histogram, ...]
    manifest: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it stands; `trained` when completed, `reason` when failed."""

    request: TrainingRequest
    state: RunState = RunState.QUEUED
    progress: str = ""
    reason: str = ""
    trained: TrainedModel | None = None

    @property
    def run_id(self) -> str:
        return self.request.request_id

# SPDX-License-Identifier: Apache-2.0
"""A training run and the lease that lets one worker at a time carry it.

The request's id is the run's id, so a repeated request meets its own run (P14). A lease has a token
that grows with each claim: whoever holds an older one can write nothing more, and it counts the
tries. A run whose try could not come to an end waits for its next one behind the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

LEASE_S = 5
# With a dependency away all the time these are spent after about an hour.
TRIES_MAX = 60
TRY_DELAY_S_MAX = 60
RUN_CANCELLED = "RUN_CANCELLED"
# Of the manifest's keys that name the versions inside a graph's version.
COMPONENT = "component:"


class LeaseLost(Exception):
    """Another worker has the run: stop, and write nothing."""


class RunState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """A wish for a run: train `recipe` on what was known until then (us; 0: now)."""

    request_id: str
    recipe: str
    known_until_us: int
    incident_id: str = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to carry a run; valid only while no later token was given. The first one is 1."""

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
    """A run as it stands; `trained` when completed, `reason` and `detail` when failed."""

    request: TrainingRequest
    known_until_us: int
    state: RunState = RunState.QUEUED
    progress: str = ""
    reason: str = ""
    detail: str = ""
    trained: TrainedModel | None = None

    @property
    def run_id(self) -> str:
        return self.request.request_id

    @property
    def published(self) -> bool:
        """Whether it was asked for as of now: all that had been published is to be in it."""
        return self.request.known_until_us == 0

    @property
    def ended(self) -> bool:
        return self.state in (RunState.COMPLETED, RunState.FAILED)

    @property
    def cancelled(self) -> bool:
        return self.reason == RUN_CANCELLED


def queued_run(request: TrainingRequest, now_us: int) -> Run:
    """The run of a new request. What now means is settled here, once for all its tries."""
    return Run(request, request.known_until_us or now_us)


def next_try_delay_s(tries: int) -> int | None:
    """How long a run waits after so many tries without an end; None when it had all of them."""
    return min(TRY_DELAY_S_MAX, 2 ** (tries - 1)) if tries < TRIES_MAX else None

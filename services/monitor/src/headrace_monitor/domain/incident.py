# SPDX-License-Identifier: Apache-2.0
"""Incidents and what they may do, so that the loop cannot run away.

An alarm opens an incident and asks for one retraining, unless one is open, the last was opened less
than the cool-down ago, or the budget is spent; all in event time, so a replay decides the same.
Evidence is spent once: windows judged while an incident is open never open another, so a flapping
signal must show itself anew (hysteresis). An incident follows facts of other services, which may
be seen in any order: what it is now depends only on which facts are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from headrace.application import Policy
from headrace_monitor.domain.drift import DriftedFeature
from headrace_monitor.domain.ids import cause_id


class IncidentState(Enum):
    """A run and its gate are awaited, its version is a canary, or it is over."""

    TRAINING = "training"
    CANARY = "canary"
    RESOLVED = "resolved"


class AlarmKind(Enum):
    """What was seen."""

    DRIFT = "drift"
    QUALITY = "quality"


class GateState(Enum):
    """What the registry said of a version."""

    UNKNOWN = "unknown"
    PASSED = "passed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Alarm:
    """A rule fired on the window that ends at `window_end_us`; it was judged at `judged_at_us`."""

    kind: AlarmKind
    version: int
    window_end_us: int
    judged_at_us: int
    why: str
    drifted: tuple[DriftedFeature, ...] = ()


@dataclass(frozen=True, slots=True)
class Incident:
    """An alarm and what came of it; `judged_at_us` is event time, the others wall clock."""

    incident_id: str
    monitor: str
    endpoint: str
    kind: AlarmKind
    state: IncidentState
    window_end_us: int
    judged_at_us: int
    detected_at_us: int
    run_id: str
    version: int
    why: str
    action: str
    version_after: int = 0
    resolved_at_us: int | None = None
    promoted_at_us: int | None = None
    # What the version is asked about more often than it was trained on; nothing: not told.
    drifted: tuple[DriftedFeature, ...] = ()

    @property
    def open(self) -> bool:
        return self.state is not IncidentState.RESOLVED


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """A wish for one run of a recipe on what was known until a time."""

    request_id: str
    recipe: str
    known_until_us: int
    incident_id: str


@dataclass(frozen=True, slots=True)
class RunFailed:
    """The trainer gave a run up."""

    run_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class TrainedVersion:
    """A version of the model and its gate."""

    version: int
    gate: GateState


@dataclass(frozen=True, slots=True)
class Rollout:
    """What an endpoint serves since its `generation`-th change; `canary` 0 is none."""

    endpoint: str
    model: str
    generation: int
    champion: int
    canary: int
    canary_percent: int
    change: str
    changed_at_us: int


def may_open(policy: Policy, incidents: Sequence[Incident], alarm: Alarm) -> bool:
    """Whether the policy lets this alarm ask for a retraining; incidents of its monitor."""
    if any(incident.open for incident in incidents):
        return False
    ages_s = [(alarm.judged_at_us - one.judged_at_us) / 1e6 for one in incidents]
    within_budget = sum(age_s < policy.budget_s for age_s in ages_s) < policy.runs_max
    return within_budget and all(age_s >= policy.cooldown_s for age_s in ages_s)


def open_incident(
    alarm: Alarm, *, monitor: str, endpoint: str, recipe: str, now_us: int
) -> tuple[Incident, TrainingRequest]:
    """The incident of this alarm and the one run that it asks for."""
    incident_id = cause_id(monitor, alarm.kind.value, alarm.version, alarm.window_end_us)
    run_id = cause_id("run", incident_id)
    incident = Incident(
        incident_id=incident_id,
        monitor=monitor,
        endpoint=endpoint,
        kind=alarm.kind,
        state=IncidentState.TRAINING,
        window_end_us=alarm.window_end_us,
        judged_at_us=alarm.judged_at_us,
        detected_at_us=now_us,
        run_id=run_id,
        version=alarm.version,
        why=alarm.why,
        action="retraining",
        drifted=alarm.drifted,
    )
    return incident, TrainingRequest(run_id, recipe, alarm.judged_at_us, incident_id)


def follow(
    incident: Incident,
    *,
    failed: RunFailed | None,
    trained: TrainedVersion | None,
    rollout: Rollout | None,
    was_canary: bool,
    now_us: int,
) -> Incident:
    """The open incident in the light of what is known now.

    `failed` and `trained` are of its run, `rollout` is its endpoint's newest; `was_canary` says
    whether a rollout had its version as canary.
    """
    if trained is None:
        if failed is None:
            return incident
        return _resolved(incident, f"retraining failed: {failed.reason}", now_us)
    incident = replace(incident, version_after=trained.version)
    done = f"retrained v{trained.version}"
    if trained.gate is GateState.FAILED:
        return _resolved(incident, f"{done}, gate failed", now_us)
    if rollout is None:
        return incident
    if rollout.champion == trained.version:
        incident = replace(incident, promoted_at_us=rollout.changed_at_us)
        return _resolved(incident, f"{done}, promoted", now_us)
    if rollout.canary == trained.version:
        return replace(incident, state=IncidentState.CANARY, action=f"{done}, canary")
    if was_canary and not rollout.canary:
        return _resolved(incident, f"{done}, rolled back", now_us)
    if was_canary or max(rollout.champion, rollout.canary) > trained.version:
        return _resolved(incident, f"{done}, replaced by another version", now_us)
    return incident


def abandon(incident: Incident, policy: Policy, *, at_us: int, now_us: int) -> Incident:
    """Ends an incident whose run gave no sign within the budget's time: no wait is endless."""
    waited_s = (at_us - incident.judged_at_us) / 1e6
    if incident.state is IncidentState.TRAINING and waited_s > policy.budget_s:
        return _resolved(incident, "no answer from the trainer within the budget's time", now_us)
    return incident


def _resolved(incident: Incident, action: str, now_us: int) -> Incident:
    return replace(incident, state=IncidentState.RESOLVED, action=action, resolved_at_us=now_us)

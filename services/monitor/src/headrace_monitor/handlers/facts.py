# SPDX-License-Identifier: Apache-2.0
"""Notes what the trainer and the registry say, and lets the open incidents follow.

The three topics are read in no common order, so each fact is stored for itself and an incident is
derived from all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace_monitor.domain import layout
from headrace_monitor.domain.incident import (
    GateState,
    Incident,
    Rollout,
    RunFailed,
    TrainedVersion,
    follow,
)
from headrace_monitor.domain.version import KnownVersion
from headrace_monitor.handlers.batch import Batch
from headrace_monitor.handlers.fold import count_held
from headrace_monitor.handlers.forms import FAILED_RUN, GATE, ROLLOUT, VERSION
from headrace_monitor.handlers.judge import drop_trials
from headrace_monitor.handlers.turn import Turn
from headrace_monitor.ports import Clock


@dataclass(frozen=True, slots=True)
class GateEvaluated:
    """The registry's word on a version."""

    model: str
    version: int
    state: GateState


Fact = RunFailed | KnownVersion | GateEvaluated | Rollout


def note(fact: Fact, *, batch: Batch) -> None:
    """Stores a fact; the same one again changes nothing."""
    if isinstance(fact, RunFailed):
        batch.write(FAILED_RUN, layout.failed_run(fact.run_id), fact)
    elif isinstance(fact, GateEvaluated):
        batch.write(GATE, layout.gate(fact.model, fact.version), fact.state)
    elif isinstance(fact, KnownVersion):
        batch.write(VERSION, layout.version(fact.model, fact.version), fact)
        number = b"%d" % fact.version
        batch.put(layout.version_of_run(fact.run_id), fact.model.encode() + b"/" + number)
        count_held(batch, fact)
    else:
        _note_rollout(fact, batch)


def follow_incidents(turn: Turn, *, clock: Clock) -> None:
    """Brings the open incidents up to what is known."""
    for incident in turn.incidents():
        if not incident.open:
            continue
        trained = _trained(turn, incident)
        was_canary = trained is not None and turn.batch.get(
            layout.was_canary(incident.endpoint, trained.version)
        )
        now = follow(
            incident,
            failed=turn.batch.read(FAILED_RUN, layout.failed_run(incident.run_id)),
            trained=trained,
            rollout=turn.rollout,
            was_canary=bool(was_canary),
            now_us=clock.now_us(),
        )
        if now != incident:
            turn.put_incident(now)
    if turn.rollout is not None:
        drop_trials(turn, turn.rollout.generation)


def _trained(turn: Turn, incident: Incident) -> TrainedVersion | None:
    place = turn.batch.get(layout.version_of_run(incident.run_id))
    if place is None:
        return None
    model, _, number = place.decode().rpartition("/")
    gate = turn.batch.read(GATE, layout.gate(model, int(number)))
    return TrainedVersion(int(number), gate or GateState.UNKNOWN)


def _note_rollout(rollout: Rollout, batch: Batch) -> None:
    if rollout.canary:
        batch.put(layout.was_canary(rollout.endpoint, rollout.canary), b"1")
    key = layout.rollout(rollout.endpoint)
    stored = batch.read(ROLLOUT, key)
    if stored is None or rollout.generation > stored.generation:
        batch.write(ROLLOUT, key, rollout)

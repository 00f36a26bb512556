# SPDX-License-Identifier: Apache-2.0
"""Answers about a monitor, from the stored state: safe to ask from any thread, at any time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.errors import NotFound
from headrace_monitor.domain import layout
from headrace_monitor.domain.incident import Incident, IncidentState, Rollout
from headrace_monitor.domain.progress import Progress
from headrace_monitor.domain.verdict import Verdict
from headrace_monitor.domain.watch import Watch
from headrace_monitor.handlers.forms import INCIDENT, PROGRESS, ROLLOUT, VERDICT
from headrace_monitor.ports import StateStore


@dataclass(frozen=True, slots=True)
class LoopState:
    """Where a monitor's loop stands."""

    evaluated_until_us: int
    settled: bool
    generation_by_endpoint: Mapping[str, int]


def find_watch(watches: Mapping[str, Watch], monitor: str) -> Watch:
    """Raises NotFound DEFINITION_UNKNOWN."""
    watch = watches.get(monitor)
    if watch is None:
        raise NotFound("DEFINITION_UNKNOWN", kind="monitor", name=monitor[:64])
    return watch


def get_loop(watch: Watch, *, store: StateStore) -> LoopState:
    """Settled: no run, gate or roll-out step that the loop asked for is under way."""
    rollouts = list_rollouts(store=store)
    serving = rollouts.get(watch.endpoint.name)
    deciding = serving is not None and store.get(
        layout.trial_decided(watch.name.encode(), serving.generation)
    )
    training = any(
        incident.state is IncidentState.TRAINING for incident in list_incidents(watch, store=store)
    )
    unsent = list(store.scan(*layout.span(layout.outputs())))
    return LoopState(
        evaluated_until_us=get_progress(watch, store=store).evaluated_until_us,
        settled=not (training or deciding or unsent),
        generation_by_endpoint={name: one.generation for name, one in rollouts.items()},
    )


def get_progress(watch: Watch, *, store: StateStore) -> Progress:
    stored = store.get(layout.progress(watch.name.encode()))
    return PROGRESS.validate_json(stored) if stored else Progress()


def list_incidents(watch: Watch, *, store: StateStore) -> list[Incident]:
    """In the order of event time."""
    found = store.scan(*layout.span(layout.incidents(watch.name.encode())))
    return [INCIDENT.validate_json(value) for _, value in found]


def list_verdicts(watch: Watch, *, store: StateStore) -> list[Verdict]:
    """Of the last 400 days, in the order in which they were reached."""
    found = store.scan(*layout.span(layout.verdicts(watch.name.encode())))
    return [VERDICT.validate_json(value) for _, value in found]


def list_rollouts(*, store: StateStore) -> dict[str, Rollout]:
    """By endpoint."""
    stored = store.scan(*layout.span(layout.rollouts()))
    found = [ROLLOUT.validate_json(value) for _, value in stored]
    return {rollout.endpoint: rollout for rollout in found}

# SPDX-License-Identifier: Apache-2.0
"""What an incident may do, and how it follows the facts of others in any order."""

from dataclasses import replace
from itertools import permutations

import pytest

from headrace.application import Policy
from headrace_monitor.domain.incident import (
    Alarm,
    AlarmKind,
    GateState,
    IncidentState,
    Rollout,
    RunFailed,
    TrainedVersion,
    abandon,
    follow,
    may_open,
    open_incident,
)

HOUR_US = 3_600_000_000
POLICY = Policy(cooldown="6h", runs_max=2, budget="24h")


def an_alarm(hour: float = 0, **changes) -> Alarm:
    at_us = round(hour * HOUR_US)
    return replace(Alarm(AlarmKind.DRIFT, 1, at_us, at_us, "because"), **changes)


def an_incident(hour: float = 0, **changes):
    incident, _ = open_incident(
        an_alarm(hour), monitor="delay", endpoint="delay", recipe="delay", now_us=1
    )
    return replace(incident, **changes)


def resolved(hour: float):
    return an_incident(hour, state=IncidentState.RESOLVED)


def a_rollout(generation: int = 2, champion: int = 1, canary: int = 0) -> Rollout:
    return Rollout("delay", "delay", generation, champion, canary, 50, "", 77)


def followed(incident, *, failed=None, trained=None, rollout=None, was_canary=False):
    return follow(
        incident, failed=failed, trained=trained, rollout=rollout, was_canary=was_canary, now_us=9
    )


def test_same_cause_gives_the_same_ids_and_one_run():
    first = open_incident(an_alarm(), monitor="m", endpoint="e", recipe="r", now_us=1)
    again = open_incident(an_alarm(), monitor="m", endpoint="e", recipe="r", now_us=2)

    assert first[0].incident_id == again[0].incident_id
    assert first[1] == again[1]
    assert first[1].request_id == first[0].run_id


@pytest.mark.parametrize(
    "other", [{"version": 2}, {"kind": AlarmKind.QUALITY}, {"window_end_us": 5}], ids=str
)
def test_another_cause_gives_another_incident(other):
    ids = {
        open_incident(alarm, monitor="m", endpoint="e", recipe="r", now_us=1)[0].incident_id
        for alarm in (an_alarm(), an_alarm(**other))
    }

    assert 2 == len(ids)


def test_request_asks_for_what_was_known_when_it_was_judged():
    alarm = an_alarm(judged_at_us=30 * HOUR_US)
    _, request = open_incident(alarm, monitor="m", endpoint="e", recipe="r", now_us=1)

    assert 30 * HOUR_US == request.known_until_us


def test_first_alarm_may_open():
    assert may_open(POLICY, [], an_alarm())


@pytest.mark.parametrize("state", [IncidentState.TRAINING, IncidentState.CANARY])
def test_no_second_incident_while_one_is_open(state):
    assert not may_open(POLICY, [an_incident(0, state=state)], an_alarm(1_000))


def test_cooldown_is_kept():
    assert not may_open(POLICY, [resolved(0)], an_alarm(5.9))
    assert may_open(POLICY, [resolved(0)], an_alarm(6))


def test_budget_is_kept():
    spent = [resolved(0), resolved(10)]

    assert not may_open(POLICY, spent, an_alarm(23.9))
    assert may_open(POLICY, spent, an_alarm(24))


def test_failed_run_resolves():
    now = followed(an_incident(), failed=RunFailed("run", "TOO_FEW_ROWS"))

    assert (IncidentState.RESOLVED, "retraining failed: TOO_FEW_ROWS", 9) == (
        now.state,
        now.action,
        now.resolved_at_us,
    )


def test_failed_gate_resolves():
    now = followed(an_incident(), trained=TrainedVersion(2, GateState.FAILED))

    assert ("retrained v2, gate failed", 2) == (now.action, now.version_after)


@pytest.mark.parametrize(
    ("rollout", "was_canary", "state", "action"),
    [
        (None, False, IncidentState.TRAINING, "retraining"),
        (a_rollout(1), False, IncidentState.TRAINING, "retraining"),
        (a_rollout(2, canary=2), True, IncidentState.CANARY, "retrained v2, canary"),
        (a_rollout(3, champion=2), True, IncidentState.RESOLVED, "retrained v2, promoted"),
        (a_rollout(3), True, IncidentState.RESOLVED, "retrained v2, rolled back"),
        (a_rollout(3, canary=3), True, IncidentState.RESOLVED,
         "retrained v2, replaced by another version"),
        (a_rollout(9, champion=3), False, IncidentState.RESOLVED,
         "retrained v2, replaced by another version"),
    ],
)  # fmt: skip
def test_incident_follows_the_rollouts(rollout, was_canary, state, action):
    trained = TrainedVersion(2, GateState.PASSED)
    now = followed(an_incident(), trained=trained, rollout=rollout, was_canary=was_canary)

    assert (state, action) == (now.state, now.action)
    assert (77 if action.endswith("promoted") else None) == now.promoted_at_us


def test_end_is_the_same_whatever_is_seen_first():
    """Each fact is one step of its own; the facts before it stay."""
    facts = [
        {"trained": TrainedVersion(2, GateState.PASSED)},
        {"rollout": a_rollout(2, canary=2), "was_canary": True},
        {"rollout": a_rollout(3, champion=2)},
    ]
    ends = set()
    for order in permutations(facts):
        incident, known = an_incident(), {}
        for fact in order:
            older = "rollout" in fact and "rollout" in known
            if older and fact["rollout"].generation < known["rollout"].generation:
                fact = {"was_canary": True}
            known |= fact
            if incident.open:
                incident = followed(incident, **known)
        ends.add((incident.state, incident.action))

    assert {(IncidentState.RESOLVED, "retrained v2, promoted")} == ends


def test_run_that_gives_no_sign_is_abandoned_after_the_budget():
    incident = an_incident(0)

    assert abandon(incident, POLICY, at_us=24 * HOUR_US, now_us=9) is incident
    ended = abandon(incident, POLICY, at_us=25 * HOUR_US, now_us=9)
    assert IncidentState.RESOLVED is ended.state


def test_canary_is_never_abandoned():
    incident = an_incident(0, state=IncidentState.CANARY)

    assert abandon(incident, POLICY, at_us=1_000 * HOUR_US, now_us=9) is incident

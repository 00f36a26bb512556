# SPDX-License-Identifier: Apache-2.0
"""Judges what is due, in the order of event time.

A window has two moments: at its end its inputs are compared with the reference (drift); when its
last prediction has matured, its outcomes are compared (quality, canary), so that no version is
judged by the early labels alone. What is decided depends only on what the window holds.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice

import numpy as np

from headrace_monitor.domain import layout
from headrace_monitor.domain.canary import Decision, judge_canary
from headrace_monitor.domain.drift import DriftJudgement, drifted_features, judge_drift
from headrace_monitor.domain.ids import cause_id
from headrace_monitor.domain.incident import Alarm, AlarmKind, abandon, may_open, open_incident
from headrace_monitor.domain.prediction import Rows, decided_rows, paired_rows
from headrace_monitor.domain.progress import Window, WindowDrift
from headrace_monitor.domain.quality import measure
from headrace_monitor.domain.verdict import (
    CanaryVerdict,
    DriftVerdict,
    Judged,
    QualityVerdict,
    Verdict,
)
from headrace_monitor.handlers.fold import trial_over
from headrace_monitor.handlers.forms import VERDICT, WINDOW
from headrace_monitor.handlers.turn import Turn
from headrace_monitor.ports import Clock

EVIDENCE_FEATURES_MAX = 5
# Requests of one window to which a canary says NaN or infinity.
NONFINITE_MAX = 5


class Subject(IntEnum):
    """What is judged at a moment; at one moment drift comes first."""

    DRIFT = 0
    OUTCOMES = 1


@dataclass(frozen=True, order=True, slots=True)
class Moment:
    """When a window's subject can be judged."""

    at_us: int
    subject: Subject
    window_end_us: int


def moments_before(turn: Turn, known_us: int) -> list[Moment]:
    """What has passed and is not judged yet, in order; judging one adds no other."""
    moments = []
    for key, value in turn.batch.scan(layout.span(layout.windows(turn.id))):
        end_us = layout.window_end(turn.id, key)
        moments.append(Moment(end_us + turn.watch.maturity_us, Subject.OUTCOMES, end_us))
        if not WINDOW.validate_json(value).drift_judged:
            moments.append(Moment(end_us, Subject.DRIFT, end_us))
    return sorted(moment for moment in moments if moment.at_us < known_us)


def judge(turn: Turn, moment: Moment, *, clock: Clock) -> None:
    """Reaches the verdicts of a moment, and opens an incident if they alarm and the policy lets."""
    key = layout.window(turn.id, moment.window_end_us)
    window = turn.batch.read(WINDOW, key) or Window()
    if moment.subject is Subject.DRIFT:
        turn.progress.drift_until_us = moment.window_end_us
        window.drift_judged = True
        turn.batch.write(WINDOW, key, window)
        alarm = _judge_drift(turn, moment, window)
        _raise(turn, AlarmKind.DRIFT, moment, alarm, clock)
    else:
        turn.progress.outcomes_until_us = moment.window_end_us
        turn.batch.delete(key)
        alarm = _judge_quality(turn, moment, window)
        _raise(turn, AlarmKind.QUALITY, moment, alarm, clock)
        _judge_canary(turn, moment, window)


def _judge_drift(turn: Turn, moment: Moment, window: Window) -> Alarm | None:
    rule = turn.watch.monitor.drift
    counters = turn.batch.get(layout.counters(turn.id, moment.window_end_us, window.champion))
    _drop_counters(turn, moment.window_end_us)
    known = turn.version(window.champion)
    if counters is None or known is None:
        return None
    counts = np.frombuffer(counters, np.int64)
    judgement = judge_drift(known.reference, counts, rule)
    if judgement is None:
        return None
    names = tuple(one.feature for one in judgement.beyond)
    seen = WindowDrift(moment.window_end_us, window.champion, names)
    persistent = turn.progress.note_drift(rule, seen)
    evidence = _drift_evidence(turn, judgement, persistent)
    judged = _judged(turn, moment, "drift", window.champion)
    strongest = max(judgement.tested, key=lambda one: one.psi, default=None)
    alarmed = bool(persistent)
    _reach(
        turn,
        DriftVerdict(judged, judgement.rows, judgement.beyond, strongest, alarmed, evidence),
    )
    if not alarmed:
        return None
    return Alarm(
        AlarmKind.DRIFT,
        window.champion,
        moment.window_end_us,
        moment.at_us,
        evidence,
        drifted_features(known.reference, counts, persistent),
    )


def _drop_counters(turn: Turn, end_us: int) -> None:
    """Those of this window and of any before it."""
    first = layout.window_counters(turn.id, 0)[: -len(layout.time(0))]
    for key, _ in turn.batch.scan(layout.before(first, end_us + 1)):
        turn.batch.delete(key)


def _drift_evidence(turn: Turn, judgement: DriftJudgement, persistent: tuple[str, ...]) -> str:
    rule = turn.watch.monitor.drift
    beyond = sorted(judgement.beyond, key=lambda one: -one.psi)
    names = ", ".join(f"{one.feature} {one.psi:.3f}" for one in beyond[:EVIDENCE_FEATURES_MAX])
    return (
        f"{len(beyond)} of {len(judgement.tested)} features drifted on {judgement.rows} rows "
        f"(PSI beyond {rule.psi_floor:g}, q {rule.q:g}): {names or 'none'}; "
        f"in {rule.windows_bad} of {rule.windows} windows: {', '.join(persistent) or 'none'}"
    )


def _judge_quality(turn: Turn, moment: Moment, window: Window) -> Alarm | None:
    rule = turn.watch.monitor.quality
    from_us = moment.window_end_us - rule.windows * turn.watch.window_us
    rows = _decided(turn, from_us, moment.window_end_us, window.champion)
    known = turn.version(window.champion)
    quality = measure(rows["score"], rows["outcome"])
    if known is None or known.auc is None or quality.auc is None:
        return None
    if quality.labelled < rule.labelled_min:
        return None
    degraded = quality.auc < known.auc - rule.auc_drop
    evidence = (
        f"AUC {quality.auc:.4f} on {quality.labelled} outcomes of {rule.windows} windows, "
        f"{known.auc:.4f} on the holdout; a drop of {rule.auc_drop:g} alarms"
    )
    _reach(
        turn,
        QualityVerdict(
            _judged(turn, moment, "quality", window.champion),
            degraded,
            quality.labelled,
            quality.auc,
            known.auc,
            evidence,
        ),
    )
    if not degraded or from_us < turn.progress.quality_spent_until_us:
        return None
    return Alarm(AlarmKind.QUALITY, window.champion, moment.window_end_us, moment.at_us, evidence)


def _decided(turn: Turn, from_us: int, until_us: int, number: int) -> Rows:
    """The monitored endpoint's rows of one version with as_of in [from, until)."""
    prefix = layout.all_decided(turn.id)
    first_hour_us = from_us // layout.HOUR_US * layout.HOUR_US
    span = (prefix + layout.time(first_hour_us), prefix + layout.time(until_us))
    rows = decided_rows(
        chunk
        for key, chunk in turn.batch.scan(span)
        if layout.decided_parts(turn.id, key)[1:] == (number, turn.watch.endpoint.name)
    )
    return rows[(rows["as_of_us"] >= from_us) & (rows["as_of_us"] < until_us)]


def judge_nonfinite(turn: Turn) -> None:
    """Takes a canary back at once that said NaN or infinity to NONFINITE_MAX requests of a window:
    they have no outcome that another could be compared with.
    """
    rollout = turn.rollout
    if rollout is None or not rollout.canary or trial_over(turn, rollout.generation):
        return
    keys = turn.batch.scan(layout.span(layout.nonfinites_of(turn.id, rollout.generation)))
    ends_us = Counter(layout.nonfinite_window(turn.id, key) for key, _ in keys)
    for end_us, requests in sorted(ends_us.items()):
        if requests >= NONFINITE_MAX:
            moment = Moment(end_us, Subject.OUTCOMES, end_us)
            evidence = (
                f"{requests} requests of a window had NaN or infinity for an answer "
                f"(MODEL_NONFINITE); {NONFINITE_MAX} suffice"
            )
            _end_trial(
                turn,
                CanaryVerdict(
                    _judged(turn, moment, f"nonfinite {rollout.generation}", rollout.champion),
                    canary_version=rollout.canary,
                    generation=rollout.generation,
                    decision=Decision.ROLL_BACK,
                    outcomes=0,
                    e_better=0.0,
                    e_worse=0.0,
                    evidence=evidence,
                ),
            )
            return


def _judge_canary(turn: Turn, moment: Moment, window: Window) -> None:
    """Judges the trial that was under way in this window on everything matured by now."""
    if not window.canary or trial_over(turn, window.generation):
        return
    rule = turn.watch.endpoint.rollout
    assert rule is not None  # noqa: S101 (no monitor watches an endpoint of tensors only)
    trial = layout.trial(turn.id, window.generation)
    matured = turn.batch.scan(layout.before(trial, moment.window_end_us))
    rows = paired_rows(chunk for _, chunk in islice(matured, rule.outcomes_max))
    judgement = judge_canary(rows["champion"], rows["canary"], rows["outcome"], rule)
    if judgement is None:
        return
    _end_trial(
        turn,
        CanaryVerdict(
            _judged(turn, moment, f"canary {window.generation}", window.champion),
            window.canary,
            window.generation,
            judgement.decision,
            judgement.outcomes,
            judgement.e_better,
            judgement.e_worse,
            judgement.evidence,
        ),
    )


def _end_trial(turn: Turn, verdict: CanaryVerdict) -> None:
    key = layout.trial_decided(turn.id, verdict.generation)
    turn.batch.put(key, verdict.decision.value.encode())
    drop_trials(turn, verdict.generation + 1)
    _reach(turn, verdict)


def drop_trials(turn: Turn, below_generation: int) -> None:
    """Drops what is kept of trials that are over."""
    for span in (
        (layout.trials(turn.id), layout.trial(turn.id, below_generation)),
        (layout.nonfinites(turn.id), layout.nonfinites_of(turn.id, below_generation)),
    ):
        for key, _ in turn.batch.scan(span):
            turn.batch.delete(key)


def _raise(turn: Turn, kind: AlarmKind, moment: Moment, alarm: Alarm | None, clock: Clock) -> None:
    """Opens an incident for an alarm about the version that serves, if the policy lets."""
    watch, policy = turn.watch, turn.watch.monitor.policy
    incidents = turn.incidents()
    for incident in incidents:
        ended = abandon(incident, policy, at_us=moment.at_us, now_us=clock.now_us())
        if ended is not incident:
            turn.put_incident(ended)
    incidents = turn.incidents()
    serves = turn.rollout is None or alarm is None or turn.rollout.champion == alarm.version
    if alarm is not None and serves and may_open(policy, incidents, alarm):
        opened, request = open_incident(
            alarm,
            monitor=watch.name,
            endpoint=watch.endpoint.name,
            recipe=watch.recipe.name,
            now_us=clock.now_us(),
        )
        turn.put_incident(opened)
        turn.batch.emit(request)
        incidents.append(opened)
    if any(incident.open for incident in incidents):
        if kind is AlarmKind.DRIFT:
            turn.progress.drifts.clear()
        else:
            turn.progress.quality_spent_until_us = moment.window_end_us


def _judged(turn: Turn, moment: Moment, what: str, number: int) -> Judged:
    return Judged(
        verdict_id=cause_id(turn.watch.name, what, number, moment.window_end_us),
        monitor=turn.watch.name,
        endpoint=turn.watch.endpoint.name,
        model=turn.watch.endpoint.model,
        version=number,
        window_end_us=moment.window_end_us,
        judged_at_us=moment.at_us,
    )


def _reach(turn: Turn, verdict: Verdict) -> None:
    judged = verdict.judged
    key = layout.verdict(turn.id, judged.judged_at_us, judged.verdict_id)
    turn.batch.write(VERDICT, key, verdict)
    turn.batch.emit(verdict)

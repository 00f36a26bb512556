# SPDX-License-Identifier: Apache-2.0
"""The live page: three static files of this package and the JSON that they poll.

The page is plain HTML, CSS and JavaScript; it loads nothing from anywhere else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from typing import Any

from headrace_kit.admin_http import Page, Route
from headrace_monitor.domain.incident import Incident, Rollout
from headrace_monitor.domain.verdict import CanaryVerdict, DriftVerdict, Verdict
from headrace_monitor.domain.watch import Watch
from headrace_monitor.handlers import queries
from headrace_monitor.handlers.quality_report import QualityReport, QualitySlice
from headrace_monitor.ports import StateStore

FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/monitor.css": ("monitor.css", "text/css; charset=utf-8"),
    "/monitor.js": ("monitor.js", "text/javascript; charset=utf-8"),
}


class LivePage:
    """Routes of the admin server."""

    def __init__(
        self,
        *,
        store: StateStore,
        watches: Callable[[], Mapping[str, Watch]],
        quality: QualityReport,
    ) -> None:
        self._store, self._watches, self._quality = store, watches, quality

    def routes(self) -> dict[str, Route]:
        return {
            **{path: _file(name, kind) for path, (name, kind) in FILES.items()},
            "/monitor.json": lambda _: Page(json.dumps(self.state()).encode()),
        }

    def state(self) -> dict[str, Any]:
        """What the page shows."""
        rollouts = queries.list_rollouts(store=self._store)
        return {
            "monitors": [self._monitor(watch) for watch in self._watches().values()],
            "serving": [_serving(rollouts[name]) for name in sorted(rollouts)],
        }

    def _monitor(self, watch: Watch) -> dict[str, Any]:
        progress = queries.get_progress(watch, store=self._store)
        verdicts = queries.list_verdicts(watch, store=self._store)
        incidents = queries.list_incidents(watch, store=self._store)
        months = self._quality.by_month(watch)
        return {
            "name": watch.name,
            "description": watch.monitor.description,
            "endpoint": watch.endpoint.name,
            "window_s": watch.monitor.window_s,
            "psi_floor": watch.monitor.drift.psi_floor,
            "evaluated_until_us": max(0, progress.evaluated_until_us),
            "settled": queries.get_loop(watch, store=self._store).settled,
            "records_folded": progress.records_folded,
            "predictions_folded": progress.predictions_folded,
            "predictions": progress.predictions,
            "labelled": progress.labelled,
            "months": [_slice(one) for one in months if one.period and one.version],
            "days": [_slice(one) for one in self._quality.by_day(watch)],
            "drift": [_drift(one) for one in verdicts if isinstance(one, DriftVerdict)],
            "canaries": _canaries(verdicts),
            "incidents": [_incident(one) for one in incidents],
        }


def _file(name: str, kind: str) -> Route:
    page = Page((resources.files(__package__) / "page" / name).read_bytes(), kind)
    return lambda _: page


def _serving(rollout: Rollout) -> dict[str, Any]:
    return {
        "endpoint": rollout.endpoint,
        "model": rollout.model,
        "generation": rollout.generation,
        "champion": rollout.champion,
        "canary": rollout.canary,
        "canary_percent": rollout.canary_percent if rollout.canary else 0,
        "change": rollout.change,
        "changed_at_us": rollout.changed_at_us,
    }


def _slice(one: QualitySlice) -> dict[str, Any]:
    return {
        "endpoint": one.endpoint,
        "period": one.period,
        "version": one.version,
        "labelled": one.quality.labelled,
        "positives": one.quality.positives,
        "auc": one.quality.auc,
        "log_loss": one.quality.log_loss,
    }


def _drift(verdict: DriftVerdict) -> dict[str, Any]:
    strongest = verdict.strongest
    return {
        "window_end_us": verdict.judged.window_end_us,
        "version": verdict.judged.version,
        "rows": verdict.rows,
        "psi": max(0.0, strongest.psi) if strongest else 0.0,
        "feature": strongest.feature if strongest else "",
        "drifted": [one.feature for one in verdict.features],
        "alarmed": verdict.alarmed,
    }


def _canaries(verdicts: Iterable[Verdict]) -> list[dict[str, Any]]:
    return [
        {
            "judged_at_us": one.judged.judged_at_us,
            "version": one.canary_version,
            "decision": one.decision.value,
            "outcomes": one.outcomes,
            "evidence": one.evidence,
        }
        for one in verdicts
        if isinstance(one, CanaryVerdict)
    ]


def _incident(incident: Incident) -> dict[str, Any]:
    return {
        "id": incident.incident_id,
        "kind": incident.kind.value,
        "state": incident.state.value,
        "judged_at_us": incident.judged_at_us,
        "detected_at_us": incident.detected_at_us,
        "resolved_at_us": incident.resolved_at_us,
        "promoted_at_us": incident.promoted_at_us,
        "action": incident.action,
        "why": incident.why,
        "version": incident.version,
        "version_after": incident.version_after,
    }

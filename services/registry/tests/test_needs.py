# SPDX-License-Identifier: Apache-2.0
"""What is needed, held against what an application is refused for without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headrace.application import Application, Definition, build_application, parse_definition
from headrace.errors import Invalid
from headrace.loader import load_application
from headrace_registry.domain.needs import needed_by
from headrace_registry.testing import MODEL, TENSORS_ENDPOINT

FLIGHTS = Path(__file__).parents[3] / "examples/flights"
VERDICTS: dict[str, Any] = {
    "kind": "stream",
    "name": "verdicts",
    "description": "What people say.",
    "owner": "tests",
    "key": "flight_id",
    "id": "id",
    "event_time": "at",
    "lateness_allowed": "1h",
    "columns": {
        "id": {"type": "string", "required": True},
        "flight_id": {"type": "string", "required": True},
        "at": {"type": "timestamp", "required": True},
        "verdict": {"type": "string"},
        "origin": {"type": "string"},
        "votes": {"type": "string"},
    },
}
SAID: dict[str, Any] = {
    "kind": "label",
    "name": "said",
    "description": "Was it late?",
    "stream": "verdicts",
    "key": "flight_id",
    "value": "verdict = 'late'",
    "window": "2d",
    "origin": "origin",
    "queue": {
        "endpoint": "delay",
        "answer": "verdict",
        "choices": ["late", "in time"],
        "rules": {"random": 0.01},
    },
    "weak": {
        "stream": "flights.departed",
        "key": "flight_id",
        "answer": "verdict",
        "votes": "votes",
        "functions": {"late": {"when": "dep_delay > 15", "label": "late"}},
    },
}
SHARE: dict[str, Any] = {
    "kind": "view",
    "name": "share",
    "description": "Of a feature, and of its own.",
    "features": {
        "far": {"transform": "value", "column": "distance"},
        "busy": {"expression": '"origin-departures:count_1h" / "share:far"'},
    },
}
GUARDED: dict[str, Any] = {
    "kind": "graph",
    "name": "guarded",
    "description": "One of two.",
    "recipe": "delay",
    "steps": {
        "all": {"model": "delay@champion"},
        "schedule": {"model": "delay-static@champion"},
        "both": {"ensemble": "mean", "of": ["all", "schedule"]},
    },
    "outputs": {"score": "both"},
}
GUARDED_ENDPOINT = {**TENSORS_ENDPOINT, "name": "guarded", "model": "guarded"}
MORE = (VERDICTS, SAID, SHARE, GUARDED, GUARDED_ENDPOINT, MODEL, TENSORS_ENDPOINT)


def an_application() -> Application:
    """One of every kind, with every way of naming another."""
    more = [parse_definition(each) for each in MORE]
    return build_application("flights", [*load_application(FLIGHTS).definitions(), *more])


def holds_without(gone: Definition, application: Application) -> bool:
    left = [each for each in application.definitions() if each is not gone]
    try:
        build_application(application.name, left)
    except Invalid:
        return False
    return True


def test_definition_is_needed_if_the_application_does_not_hold_without_it() -> None:
    application = an_application()
    found = application.definitions()

    for each in found:
        others = [other for other in found if other is not each]
        needed = bool(needed_by(each, others))
        assert needed != holds_without(each, application), f"{each.kind} {each.name}"


def test_those_that_name_it_are_named() -> None:
    found = an_application().definitions()

    def needing(kind: str, name: str) -> list[str]:
        [target] = [each for each in found if (each.kind, each.name) == (kind, name)]
        return needed_by(target, [each for each in found if each is not target])

    assert ["graph guarded", "endpoint delay", "monitor delay"] == needing("recipe", "delay")
    assert ["monitor delay", "label said"] == needing("endpoint", "delay")
    assert ["graph guarded", "endpoint delay-static"] == needing("recipe", "delay-static")
    assert ["endpoint guarded"] == needing("graph", "guarded")
    assert ["endpoint fraud"] == needing("model", "fraud")
    assert "label said" in needing("stream", "flights.departed")
    assert {"view share", "recipe delay"} <= {*needing("view", "origin-departures")}
    assert [] == needing("label", "said")

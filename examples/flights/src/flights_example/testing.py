# SPDX-License-Identifier: Apache-2.0
"""Small whole runs for tests and benchmarks: real Kafka, six processes, own ports and folders."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from flights_example.account import account
from flights_example.command import APPLICATION
from flights_example.events import EventBatch
from flights_example.replay import Plan, replay
from flights_example.waiting import until
from headrace.application import Application, GateRule, Policy, RolloutRule
from headrace.client import Client
from headrace.errors import Unavailable
from headrace.loader import load_application
from headrace.local.platform import Platform, PlatformOptions
from headrace.local.ports import DEFAULT_PORTS, LOOPBACK, pick_ports
from headrace.local.state import ProcessState, live_state
from headrace.local.tools import ToolCache

# Two weeks to learn from and eight days to serve: small, with every step of the loop in it.
SMALL = Plan(from_day=date(2013, 1, 2), train_until=date(2013, 1, 16), until=date(2013, 1, 24))
DAY_S = 86_400
LOGGED_TIMEOUT_S, METRICS_TIMEOUT_S = 30.0, 5.0


@contextmanager
def a_platform(folder: Path, cache: ToolCache) -> Iterator[Platform]:
    ports = dict(zip(DEFAULT_PORTS, pick_ports(len(DEFAULT_PORTS)), strict=True))
    with Platform(PlatformOptions(folder, cache, ports=ports)).running(
        progress=lambda _: None
    ) as platform:
        yield platform


def an_eager_application() -> Application:
    """The flights, watched by the day and quick to retrain, so that a week shows the whole loop."""
    application = load_application(APPLICATION)
    monitor = application.monitors["delay"]
    drift = monitor.drift.model_copy(
        update={"q": 0.999, "psi_floor": 1e-6, "rows_min": 300, "windows_bad": 1, "windows": 1}
    )
    quality = monitor.quality.model_copy(
        update={"auc_drop": 1e-6, "labelled_min": 300, "windows": 1}
    )
    policy = Policy.model_construct(cooldown_s=30 * DAY_S, runs_max=1, budget_s=90 * DAY_S)
    monitors = {
        "delay": monitor.model_copy(
            update={"window_s": DAY_S, "drift": drift, "quality": quality, "policy": policy}
        )
    }
    rule = RolloutRule(canary_percent=20, outcomes_min=500, outcomes_max=1500, alpha=0.05)
    endpoints = {
        name: endpoint.model_copy(update={"rollout": rule})
        for name, endpoint in application.endpoints.items()
    }
    # Half of the two weeks would be held out otherwise, and noise could close a gate.
    gate = GateRule.model_construct(holdout_s=3 * DAY_S, auc_min=0.3, champion_margin=0.2)
    recipes = {
        name: recipe.model_copy(update={"gate": gate})
        for name, recipe in application.recipes.items()
    }
    return Application(
        application.name,
        application.streams,
        application.views,
        recipes,
        endpoints,
        monitors,
    )


@dataclass
class Onlooker:
    """Watcher that lets a story act at a step, counted from 0, or when something is said."""

    at_step: dict[int, Callable[[], None]] = field(default_factory=dict)
    when_said: dict[str, Callable[[], None]] = field(default_factory=dict)
    steps: int = 0

    def said(self, text: str) -> None:
        for part in [each for each in self.when_said if each in text]:
            self.when_said.pop(part)()

    def replayed(self, step: EventBatch, events: int) -> None:
        self.at_step.pop(self.steps, lambda: None)()
        self.steps += 1

    def predicted(self, rows: int) -> None:
        """Nothing to do."""


def kill(platform: Platform, service: str) -> None:
    """SIGKILL to the service's process, as the kernel would for want of memory."""
    process = _process(platform, service)
    if process is not None and process.pid is not None:
        os.kill(process.pid, signal.SIGKILL)


def kill_inference(platform: Platform) -> None:
    """When all that it answered is on Kafka: what is not, a kill loses and the log counts."""
    until(lambda: _log_is_written(platform), "the prediction log", timeout_s=LOGGED_TIMEOUT_S)
    kill(platform, "inference")


def _log_is_written(platform: Platform) -> bool:
    process = _process(platform, "inference")
    if process is None:
        raise Unavailable("SERVICE_UNAVAILABLE", service="inference")
    metrics = f"http://{LOOPBACK}:{process.ports['inference-http']}/metrics"
    with urlopen(metrics, timeout=METRICS_TIMEOUT_S) as told:
        return "\nheadrace_inference_log_pending_bytes 0.0\n" in told.read().decode()


def _process(platform: Platform, service: str) -> ProcessState | None:
    state = live_state(platform.folder)
    processes = state.processes if state is not None else ()
    return next((each for each in processes if each.name == service), None)


def run_small(platform: Platform, onlooker: Onlooker) -> dict[str, Any]:
    client = Client(platform.addresses)
    client.apply(an_eager_application())
    outcome = replay(client, SMALL, onlooker)
    return account(client, outcome, platform.rss_mb_by_service())

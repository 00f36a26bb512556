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

from flights_example.account import account
from flights_example.command import APPLICATION
from flights_example.events import EventBatch
from flights_example.replay import Plan, replay
from headrace.application import Application, GateRule, Policy, RolloutRule
from headrace.client import Client
from headrace.loader import load_application
from headrace.local.platform import Platform, PlatformOptions
from headrace.local.ports import DEFAULT_PORTS, pick_ports
from headrace.local.state import live_state
from headrace.local.tools import ToolCache

# Two weeks to learn from and eight days to serve: small, with every step of the loop in it.
SMALL = Plan(from_day=date(2013, 1, 2), train_until=date(2013, 1, 16), until=date(2013, 1, 24))
DAY_S = 86_400


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
    state = live_state(platform.folder)
    for process in state.processes if state is not None else ():
        if process.name == service and process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)


def run_small(platform: Platform, onlooker: Onlooker) -> dict[str, Any]:
    client = Client(platform.addresses)
    client.apply(an_eager_application())
    outcome = replay(client, SMALL, onlooker)
    return account(client, outcome, platform.rss_mb_by_service())

# SPDX-License-Identifier: Apache-2.0
"""Replays the flights through a running Headrace, in steps of event time.

Each step publishes what became known, waits until every service has taken it in and the loop is at
rest, then asks for the flights whose hour-before-departure falls into the step. So a prediction
sees all that was known at its moment and nothing later, however fast the replay runs, and the end
result depends on no race: killing a service in between changes no number.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Protocol

import polars as pl

from flights_example.doors import Asked, Doors
from flights_example.events import (
    ARRIVED,
    DEPARTED,
    SCHEDULED,
    STREAMS,
    WEATHER,
    EventBatch,
    event_batches,
)
from flights_example.source import midnight_us, read_flights
from flights_example.waiting import until, wait_consumed
from headrace import topics
from headrace.client import Client
from headrace.errors import Conflict
from headrace.registry.v1.registry_events_pb2 import GATE_STATE_FAILED

ENDPOINT, STATIC = "delay", "delay-static"
MONITOR = "delay"
ASKED_BEFORE_US = 3_600_000_000
# Labels that are not there a day after the schedule count as never: two days close the account.
TAIL = timedelta(days=2)
RUN_TIMEOUT_S = 600.0
LOOP_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Train on [from_day, train_until), predict [train_until, until); New York's days."""

    from_day: date
    train_until: date
    until: date
    step: timedelta = timedelta(days=1)
    # Event seconds per second of wall time; None is as fast as the platform takes it.
    speed: float | None = None
    seed: int = 13

    @property
    def days(self) -> int:
        return (self.until + TAIL - self.from_day).days


def plan_months(first: int, last: int, *, speed: float | None = None, seed: int = 13) -> Plan:
    """Two months to train on and the rest to predict, of 2013."""
    if not (1 <= first and first + 2 <= last <= 12):
        raise ValueError("give at least three months, such as 1-3, of the year 2013")
    step = timedelta(days=1) if speed is None else timedelta(hours=1)
    return Plan(_first_day(first), _first_day(first + 2), _first_day(last + 1), step, speed, seed)


class Watcher(Protocol):
    """Is told how the replay goes."""

    def said(self, text: str) -> None: ...

    def replayed(self, step: EventBatch, events: int) -> None: ...

    def predicted(self, rows: int) -> None: ...


@dataclass
class Outcome:
    """What the driver itself counted: the account is checked against it."""

    published: Counter[str] = field(default_factory=Counter)
    dirt: Counter[str] = field(default_factory=Counter)
    asked: Asked = field(default_factory=Asked)
    first_prediction_s: float | None = None
    wall_s: float = 0.0


def replay(client: Client, plan: Plan, watcher: Watcher) -> Outcome:
    """Runs the plan to its end. Raises Unavailable when a wait runs over its bound."""
    outcome, started = Outcome(), time.monotonic()
    doors = Doors(client.addresses.inference)
    flights = _asked_flights()
    train_until_us, until_us = midnight_us(plan.train_until), midnight_us(plan.until)
    trained = False
    for step in _paced(plan, started):
        count = _publish(client, step, outcome)
        watcher.replayed(step, count)
        # As fast as the platform takes it: nothing piles up, so freshness is what a user would see.
        _wait_taken_in(client)
        if step.from_us < train_until_us:
            continue
        if not trained:
            _train_first(client, doors, train_until_us, watcher)
            trained = True
        _wait_settled(client, doors, watcher)
        due = _due(flights, max(step.from_us, train_until_us), min(step.until_us, until_us))
        doors.ask(due, outcome.asked)
        watcher.predicted(due.height)
        if due.height and outcome.first_prediction_s is None:
            outcome.first_prediction_s = time.monotonic() - started
    _wait_taken_in(client)
    _wait_settled(client, doors, watcher)
    outcome.wall_s = time.monotonic() - started
    return outcome


def _paced(plan: Plan, started: float) -> Iterator[EventBatch]:
    """The steps, none before its time when a speed is set. Schedules are known a day ahead."""
    first_us: int | None = None
    begin = plan.from_day - timedelta(days=1)
    for step in event_batches(begin, plan.until + TAIL, step=plan.step, seed=plan.seed):
        first_us = step.from_us if first_us is None else first_us
        if plan.speed is not None:
            due_s = started + (step.until_us - first_us) / 1e6 / plan.speed
            time.sleep(max(0.0, due_s - time.monotonic()))
        yield step


def _publish(client: Client, step: EventBatch, outcome: Outcome) -> int:
    for stream, batch in step.by_stream.items():
        rows = zip(batch.keys, batch.values, strict=True)
        outcome.published[stream] += client.publish_raw(stream, rows)
        outcome.dirt.update(batch.dirt_by_kind)
    return sum(len(batch) for batch in step.by_stream.values())


def _wait_taken_in(client: Client) -> None:
    """Ingest first: what it has not passed on, the others cannot have read."""
    kafka = client.addresses.kafka
    wait_consumed(kafka, "ingest", [topics.RAW.of(stream) for stream in STREAMS])
    # The schedule feeds no view: it is the spine, and the request brings it.
    viewed = [topics.INGEST_RECORDS.of(stream) for stream in (DEPARTED, ARRIVED, WEATHER)]
    wait_consumed(kafka, "feature", viewed)
    predictions = [topics.INFERENCE_PREDICTIONS.of(name) for name in (ENDPOINT, STATIC)]
    labels = [topics.INGEST_RECORDS.of(stream) for stream in (SCHEDULED, ARRIVED)]
    wait_consumed(kafka, "monitor", [*labels, *predictions])


def _train_first(client: Client, doors: Doors, known_until_us: int, watcher: Watcher) -> None:
    runs = {
        recipe: client.train(recipe, known_until_us=known_until_us, request_id=f"first-{recipe}")
        for recipe in (ENDPOINT, STATIC)
    }
    for recipe, run_id in runs.items():
        watcher.said(f"training {recipe}")
        client.wait_run(run_id, timeout_s=RUN_TIMEOUT_S, said=watcher.said)
    watcher.said("waiting for the first versions to serve")
    until(
        lambda: _serve_first_versions(client),
        "the registry to open the endpoints",
        timeout_s=LOOP_TIMEOUT_S,
    )


def _serve_first_versions(client: Client) -> bool:
    """Raises Conflict GATE_NOT_PASSED, with the evidence, when a first version may never serve."""
    for model in (ENDPOINT, STATIC):
        for version in client.versions(model):
            if version.gate.state == GATE_STATE_FAILED:
                evidence = "; ".join(version.gate.evidence)
                raise Conflict("GATE_NOT_PASSED", model=model, evidence=evidence)
    return {ENDPOINT, STATIC} <= {rollout.endpoint for rollout in client.rollouts.list()}


def _wait_settled(client: Client, doors: Doors, watcher: Watcher) -> None:
    """Until no training, gate or roll-out step is under way, and inference serves as decided."""

    def settled() -> bool:
        loop = client.loop(MONITOR)
        if not loop.settled:
            watcher.said("the loop is at work: retraining")
            return False
        rollouts = client.rollouts.list()
        if not doors.serve(rollouts):
            return False
        serving = next(each for each in rollouts if each.endpoint == ENDPOINT)
        canary = f", canary v{serving.canary.version}" if serving.HasField("canary") else ""
        watcher.said(f"v{serving.champion.version} serves{canary}")
        return True

    until(settled, "the loop to come to rest", timeout_s=LOOP_TIMEOUT_S)


def _asked_flights() -> pl.DataFrame:
    """What a caller knows of each flight an hour before its scheduled departure."""
    columns = ("flight_id", "carrier", "flight", "tailnum", "origin", "dest")
    flights = read_flights().select(*columns, "distance", "scheduled_at")
    asked = flights.with_columns(
        pl.col("distance").cast(pl.Float64),
        pl.col("tailnum").fill_null(""),
        as_of_us=pl.col("scheduled_at") - ASKED_BEFORE_US,
    )
    return asked.sort("as_of_us", maintain_order=True)


def _due(flights: pl.DataFrame, from_us: int, until_us: int) -> pl.DataFrame:
    """The flights to be asked for in [from_us, until_us)."""
    start, stop = flights["as_of_us"].search_sorted(pl.Series([from_us, max(from_us, until_us)]))
    return flights[start:stop]


def _first_day(month: int) -> date:
    return date(2013 + (month - 1) // 12, (month - 1) % 12 + 1, 1)

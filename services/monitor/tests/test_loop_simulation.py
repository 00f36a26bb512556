# SPDX-License-Identifier: Apache-2.0
"""The whole loop in a simulated platform: any order of partitions, repeats and crashes end alike.

The world holds the topics as lists and plays trainer, registry and inference. A seeded schedule
decides which partitions the monitor reads next, how many records, and where it dies; the run
without any of that says what must come out.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from zlib import crc32

import pytest

from headrace import topics
from headrace.inference.v1 import inference_events_pb2 as inference_pb
from headrace.monitor.v1 import monitor_events_pb2 as events_pb
from headrace.trainer.v1 import trainer_events_pb2 as trainer_pb
from headrace_kit.kafka import Message, Partition, Record
from headrace_kit.state_store import MemoryStateStore
from headrace_kit.testing import FixedClock
from headrace_monitor import testing
from headrace_monitor.adapters.event_loop import EventLoop
from headrace_monitor.app import FACT_TOPICS, topics_of
from headrace_monitor.handlers import queries
from headrace_monitor.handlers.quality_report import QualityReport

SCENE = testing.Scene()

STEPS_MAX = 5_000
FLIGHTS_PER_HOUR = 40


class Killed(BaseException):
    """The process is gone: nothing after this line of it happens."""


@dataclass
class Rollout:
    generation: int = 1
    champion: int = 1
    canary: int = 0


@dataclass
class World:
    """Topics, and neighbours that answer each request once."""

    shift_from: int | None = None
    gate_passes: bool = True
    canary_good: bool = True
    records: dict[Partition, list[Record]] = field(default_factory=lambda: defaultdict(list))
    sent: dict[bytes, Message] = field(default_factory=dict)
    times_sent: Counter = field(default_factory=Counter)
    rollout: Rollout = field(default_factory=Rollout)
    versions: int = 1

    def __post_init__(self):
        self.append(SCENE.a_registered_version(1))
        self.append(SCENE.a_rollout(1, 1))

    def append(self, message: Message) -> None:
        number = crc32(message.key) % self.partitions(message.topic)
        log = self.records[Partition(message.topic, number)]
        log.append(
            Record(
                message.topic,
                number,
                len(log),
                message.key,
                message.value,
                dict(message.headers),
                0,
            )
        )

    def partitions(self, topic: str) -> int:
        templated = topic.startswith(("ingest.records.", "inference.predictions."))
        return 3 if templated else 1

    def ends(self, wanted) -> dict[Partition, int]:
        return {
            Partition(topic, number): len(self.records.get(Partition(topic, number), ()))
            for topic in wanted
            for number in range(self.partitions(topic))
        }

    def receive(self, message: Message) -> None:
        """The platform's answer to what the monitor sends; a repeat is dropped by its ce_id."""
        ce_id = dict(message.headers)["ce_id"]
        self.times_sent[ce_id] += 1
        if ce_id in self.sent:
            assert self.sent[ce_id].value == message.value, "a repeat says something else"
            return
        self.sent[ce_id] = message
        if message.topic == topics.TRAINER_REQUESTS.name:
            self.train(trainer_pb.TrainingRequest.FromString(message.value))
        elif message.topic == topics.MONITOR_VERDICTS.name:
            self.judge(events_pb.VerdictReached.FromString(message.value))

    def train(self, request) -> None:
        self.versions += 1
        self.append(
            SCENE.a_registered_version(
                self.versions, run_id=request.request_id, first=testing.SHIFTED
            )
        )
        self.append(SCENE.a_gate(self.versions, passed=self.gate_passes))
        if self.gate_passes:
            self.roll(Rollout(self.rollout.generation + 1, self.rollout.champion, self.versions))

    def judge(self, verdict) -> None:
        generation = verdict.canary.rollout_generation
        if not verdict.HasField("canary") or generation != self.rollout.generation:
            return
        promoted = verdict.canary.decision == events_pb.CANARY_DECISION_PROMOTE
        champion = self.rollout.canary if promoted else self.rollout.champion
        self.roll(Rollout(generation + 1, champion))

    def roll(self, rollout: Rollout) -> None:
        self.rollout = rollout
        self.append(SCENE.a_rollout(rollout.generation, rollout.champion, rollout.canary))

    def hour(self, hour: int) -> list[Message]:
        """What the users send in an hour, in its order."""
        dice = random.Random(hour)
        drifted = self.shift_from is not None and hour >= self.shift_from
        messages = []
        for i in range(FLIGHTS_PER_HOUR):
            flight, minute = f"{hour}-{i}", i / FLIGHTS_PER_HOUR
            messages.append((hour + minute, SCENE.a_schedule(flight, hour + minute)))
            late = dice.random() < 0.4
            features = [dice.gauss(0, 1) + 2 * drifted, dice.gauss(0, 1)]
            scores = {
                version: self.score(version, late, dice, drifted=drifted) for version in range(1, 9)
            }
            asked = {"as_of": hour + minute, "features": features}
            answer = self.answer(flight, scores, **asked)
            messages.append((hour + minute, answer))
            if i % 7 == 0:
                messages.append((hour + minute + 0.01, answer))  # the caller tried again
            if i % 4 == 0:
                static = {
                    "endpoint": "delay-static",
                    "door": inference_pb.DOOR_TENSORS,
                    "score": 0.4,
                }
                messages.append((hour + minute, SCENE.a_prediction(flight, **asked, **static)))
            if dice.random() < 0.9 or not late:
                known = hour + minute + 1.1 + 2 * dice.random()  # some come too late
                messages.append((known, SCENE.an_arrival(flight, known, 60.0 if late else 0.0)))
        return messages

    def score(self, version: int, late: bool, dice: random.Random, *, drifted: bool) -> float:
        share = (0.2 if drifted else 0.5) if version == 1 else 0.6 if self.canary_good else -0.2
        return min(0.98, max(0.02, 0.5 + share * (late - 0.5) + dice.gauss(0, 0.15)))

    def answer(self, flight: str, scores, *, as_of: float, features) -> Message:
        now = self.rollout
        fields = {"rollout_generation": now.generation, "features": features}
        if not now.canary:
            chosen = {"version": now.champion, "score": scores[now.champion]}
            return SCENE.a_prediction(flight, as_of, **chosen, **fields)
        canary = crc32(flight.encode()) % 2 == 0
        answering, other = (now.champion, now.canary)[:: -1 if canary else 1]
        return SCENE.a_prediction(
            flight,
            as_of,
            version=answering,
            score=scores[answering],
            arm=inference_pb.ARM_CANARY if canary else inference_pb.ARM_CHAMPION,
            shadow=(other, scores[other]),
            **fields,
        )


class KillingPublisher:
    """Delivers to the world, and now and then kills the monitor before or after it did."""

    def __init__(self, world: World, dice: random.Random, kill_share: float) -> None:
        self.world, self.dice, self.kill_share = world, dice, kill_share

    def publish(self, messages, *, timeout_s: float = 10.0) -> None:
        for message in messages:
            if self.dice.random() < self.kill_share:
                raise Killed
            self.world.receive(message)
        if self.dice.random() < self.kill_share:
            raise Killed


class Monitor:
    """The service with its consume loop, driven step by step."""

    def __init__(self, world: World, seed: int | None) -> None:
        self.world, self.dice = world, random.Random(seed)
        self.shuffle = seed is not None
        self.store, self.clock = MemoryStateStore(), FixedClock()
        self.watch = SCENE.a_watch()
        self.topics = topics_of([self.watch])
        self.kills = 0
        self.start()

    def start(self) -> None:
        self.loop = EventLoop(
            fact_topics=FACT_TOPICS,
            store=self.store,
            publisher=KillingPublisher(self.world, self.dice, 0.15 if self.shuffle else 0.0),
            watches=lambda: {"delay": self.watch},
            end_offsets=self.world.ends,
            clock=self.clock,
            monotonic_s=lambda: 0.0,
        )
        self.next = {}

    def lag(self) -> dict[Partition, int]:
        return {
            partition: end - self.next.get(partition, 0)
            for partition, end in self.world.ends(self.topics).items()
            if end > self.next.get(partition, 0)
        }

    def step(self) -> None:
        try:
            self.read()
        except Killed:
            self.kills += 1
            self.restart()

    def restart(self) -> None:
        while True:
            self.start()
            try:
                self.next = dict(self.loop.positions(sorted(self.world.ends(self.topics))))
                return
            except Killed:
                self.kills += 1

    def read(self) -> None:
        lagging = sorted(self.lag())
        if not lagging:
            self.loop.idle()
            return
        if self.shuffle:
            lagging = self.dice.sample(lagging, self.dice.randint(1, len(lagging)))
        batch = []
        for partition in lagging:
            first = self.next.get(partition, 0)
            if self.shuffle and first and self.dice.random() < 0.05:
                first -= self.dice.randint(1, first)  # read again, as after a rebalance
            last = first + (self.dice.randint(1, 40) if self.shuffle else 1_000)
            batch += self.world.records[partition][first:last]
        if self.shuffle and self.dice.random() < 0.02:
            raise Killed
        self.loop.handle(batch)
        self.next |= {
            Partition(r.topic, r.partition): max(
                r.offset + 1, self.next.get((r.topic, r.partition), 0)
            )
            for r in batch
        }

    def settle(self) -> None:
        """What the driver of a replay waits for."""
        for _ in range(STEPS_MAX):
            if not self.lag() and queries.get_loop(self.watch, store=self.store).settled:
                return
            self.step()
        raise AssertionError("the loop does not settle")

    def outcome(self):
        """Everything that must be the same in every run."""
        verdicts = {
            ce_id: message.value
            for ce_id, message in self.world.sent.items()
            if message.topic != topics.MONITOR_INCIDENTS.name
        }
        incidents = queries.list_incidents(self.watch, store=self.store)
        slices = QualityReport(store=self.store).by_month(self.watch)
        progress = queries.get_progress(self.watch, store=self.store)
        return verdicts, incidents, slices, progress


def run(hours: int, seed: int | None, *, barriers: bool = True, **world) -> Monitor:
    """Hour by hour; without barriers the monitor is left behind and reads it all at the end."""
    monitor = Monitor(World(**world), seed)
    waiting = []
    for hour in range(hours):
        waiting = sorted([*waiting, *monitor.world.hour(hour)], key=lambda known: known[0])
        for known, message in waiting:
            if known >= hour + 1:
                break
            monitor.world.append(message)
            if monitor.shuffle and monitor.dice.random() < 0.05:
                monitor.step()
        waiting = [one for one in waiting if one[0] >= hour + 1]
        if barriers:
            monitor.settle()
    monitor.settle()
    return monitor


@lru_cache(maxsize=8)
def undisturbed(**world):
    return run(14, None, **world).outcome()


def requests(monitor: Monitor) -> list[Message]:
    name = topics.TRAINER_REQUESTS.name
    return [message for message in monitor.world.sent.values() if message.topic == name]


def test_quiet_traffic_opens_no_incident():
    monitor = run(12, None)

    assert 12 * FLIGHTS_PER_HOUR == monitor.outcome()[3].predictions
    assert [] == queries.list_incidents(monitor.watch, store=monitor.store)
    assert [] == requests(monitor)


def test_drift_leads_to_one_retraining_a_canary_and_a_promotion():
    monitor = run(16, None, shift_from=4)
    incidents = queries.list_incidents(monitor.watch, store=monitor.store)

    assert ["retrained v2, promoted"] == [one.action for one in incidents]
    assert 1 == len(requests(monitor))
    assert (3, 2, 0) == (
        monitor.world.rollout.generation,
        monitor.world.rollout.champion,
        monitor.world.rollout.canary,
    )


def test_bad_canary_is_rolled_back_and_the_next_run_waits_for_the_cooldown():
    monitor = run(24, None, shift_from=4, canary_good=False)
    incidents = queries.list_incidents(monitor.watch, store=monitor.store)

    assert "retrained v2, rolled back" == incidents[0].action
    assert incidents[1].judged_at_us - incidents[0].judged_at_us >= 6 * testing.HOUR_US
    assert 1 == monitor.world.rollout.champion


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "world",
    [
        {},
        {"barriers": False},
        {"shift_from": 4},
        {"shift_from": 4, "gate_passes": False},
        {"shift_from": 3, "canary_good": False},
    ],
    ids=str,
)
def test_any_interleaving_repeat_and_crash_ends_alike(world, seed):
    found = run(14, seed, **world)

    assert found.kills > 0
    for want, got in zip(undisturbed(**world), found.outcome(), strict=True):
        assert want == got


def test_24_hours_of_constant_drift_retrain_within_the_budget():
    """P14, FAULTS row 41: no version ever helps, so only the policy ends it."""
    monitor = run(30, None, shift_from=0, canary_good=False)
    incidents = queries.list_incidents(monitor.watch, store=monitor.store)
    opened = [one.judged_at_us for one in incidents]

    assert len(requests(monitor)) == len(incidents)
    assert len({one.run_id for one in incidents}) == len(incidents)
    for first in opened:
        within = [one for one in opened if first <= one < first + 24 * testing.HOUR_US]
        assert len(within) <= 2
    assert all(b - a >= 6 * testing.HOUR_US for a, b in itertools.pairwise(opened))

# SPDX-License-Identifier: Apache-2.0
"""The monitor process on a real Kafka: the test plays everybody else and looks at what comes out.

Each test has an application of its own (a tag in every name), so that what other tests left on the
shared topics does not matter.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace import topics
from headrace.admin import create_topics, static_topics
from headrace.errors import NotFound, Unavailable
from headrace.inference.v1 import inference_events_pb2 as inference_pb
from headrace.local.ports import pick_ports
from headrace.local.process import Child
from headrace.local.service_process import service_process
from headrace.monitor.v1 import monitor_events_pb2 as events_pb
from headrace.monitor.v1 import monitor_service_pb2 as service_pb
from headrace.monitor.v1 import monitor_service_pb2_grpc as service_grpc
from headrace.rpc import call, open_channel
from headrace.trainer.v1 import trainer_events_pb2 as trainer_pb
from headrace_kit.kafka import KafkaPublisher, Message
from headrace_kit.offsets import committed_offsets, topic_end_offsets
from headrace_monitor.domain.ids import cause_id
from headrace_monitor.testing import Scene, a_definition, at_us

pytestmark = pytest.mark.integration

DEADLINE_S = 60.0
CALL_TIMEOUT_S = 10.0
OUTPUTS = {
    topics.MONITOR_VERDICTS.name: events_pb.VerdictReached,
    topics.MONITOR_INCIDENTS.name: events_pb.Incident,
    topics.TRAINER_REQUESTS.name: trainer_pb.TrainingRequest,
}
FAILPOINTS = ("monitor.verdict.sent", "monitor.incident.opened", "monitor.request.sent")
ROWS_PER_HOUR = 60


def wait_for(done: Callable[[], Any]) -> Any:
    """What `done` gives when it is neither None nor False; fails after DEADLINE_S."""
    deadline_s, waiting = time.monotonic() + DEADLINE_S, threading.Event()
    while time.monotonic() < deadline_s:
        result = done()
        if result is not None and result is not False:
            return result
        waiting.wait(0.05)
    raise AssertionError("not in time")


def offsets(ask: Callable[[], Any]) -> Any:
    """Offsets from the broker; a topic that was just created has a leader soon."""

    def asked() -> Any:
        try:
            return ask()
        except (Unavailable, KafkaException):
            return None

    return wait_for(asked)


class Platform:
    """Kafka, the neighbours' hands on its topics, and the monitor's process."""

    def __init__(self, bootstrap: str, folder: Path) -> None:
        self.bootstrap, self.folder = bootstrap, folder
        self.scene = Scene(f"-{uuid.uuid4().hex[:8]}")
        scene = self.scene
        self.inputs = [
            topics.INGEST_RECORDS.of(scene.scheduled),
            topics.INGEST_RECORDS.of(scene.arrived),
            topics.INFERENCE_PREDICTIONS.of(scene.name),
            topics.INFERENCE_PREDICTIONS.of(scene.static),
        ]
        create_topics(bootstrap, static_topics())
        contracts = [topics.INGEST_RECORDS] * 2 + [topics.INFERENCE_PREDICTIONS] * 2
        create_topics(bootstrap, list(zip(self.inputs, contracts, strict=True)))
        self.publisher = KafkaPublisher(bootstrap, client_id="test")
        self.outputs_from = offsets(lambda: topic_end_offsets(bootstrap, list(OUTPUTS)))
        self.grpc_port, self.http_port = pick_ports(2)
        self.channel = open_channel(f"127.0.0.1:{self.grpc_port}")
        self.monitor = service_grpc.MonitorServiceStub(self.channel)
        self.child: Child | None = None

    def send(self, *messages: Message) -> None:
        self.publisher.publish(messages)

    def apply(self) -> None:
        self.send(*(a_definition(document) for document in self.scene.documents()))

    def start(self, *, fail: str = "") -> None:
        told = {"KAFKA_BOOTSTRAP": self.bootstrap, "DATA_DIR": str(self.folder / "data")}
        ports, environment = (self.grpc_port, self.http_port), {"HEADRACE_FAIL": fail}
        spec = service_process("monitor", ports, told, environment=environment)
        self.child = Child(spec, self.folder / "monitor.log", self.folder)

    def wait_ready(self) -> None:
        self.child.wait_ready()
        grpc.channel_ready_future(self.channel).result(CALL_TIMEOUT_S)

    def wait_killed(self) -> None:
        assert -9 == wait_for(self.child.died)

    def stop(self) -> int:
        self.child.ask_to_stop()
        return wait_for(self.child.died)

    def close(self) -> None:
        removed = [a_definition(document) for document in self.scene.documents()]
        self.send(*(Message(one.topic, one.key, None) for one in removed))
        self.publisher.close(5.0)
        self.channel.close()
        if self.child is not None:
            self.child.stop()

    def make_again(self, topic: str) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        admin.delete_topics([topic])[topic].result(CALL_TIMEOUT_S)
        wait_for(lambda: create_topics(self.bootstrap, [(topic, topics.INFERENCE_PREDICTIONS)]))
        offsets(lambda: topic_end_offsets(self.bootstrap, [topic]))
        self.publisher.close(5.0)  # it knows the old one
        self.publisher = KafkaPublisher(self.bootstrap, client_id="test")

    def wait_lag_0(self) -> None:
        """As a driver waits: the group's offsets have reached what was sent before."""
        facts = [topics.REGISTRY_MODEL_VERSIONS, topics.REGISTRY_ROLLOUTS, topics.TRAINER_RUNS]
        names = [*self.inputs, *(topic.name for topic in facts)]
        ends = offsets(lambda: topic_end_offsets(self.bootstrap, names))

        def done() -> bool:
            committed = committed_offsets(self.bootstrap, "monitor", names)
            return all(committed.get(each, 0) >= end for each, end in ends.items())

        wait_for(done)

    def outputs(self) -> list[tuple[str, str, Any]]:
        """(topic, ce_id, event) of our application since the test began, repeats and all."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": uuid.uuid4().hex,
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        first = self.outputs_from
        ends = topic_end_offsets(self.bootstrap, list(OUTPUTS))
        left = sum(ends[each] - first[each] for each in ends)
        consumer.assign([TopicPartition(*each, offset) for each, offset in first.items()])
        messages: list[Any] = []
        wait_for(lambda: messages.extend(consumer.consume(500, 0.1)) or len(messages) >= left)
        consumer.close()
        return [
            (message.topic(), dict(message.headers())["ce_id"].decode(), event)
            for message in messages
            if self.is_ours(event := OUTPUTS[message.topic()].FromString(message.value()))
        ]

    def is_ours(self, event: Any) -> bool:
        name = event.recipe if isinstance(event, trainer_pb.TrainingRequest) else event.monitor
        return name == self.scene.name

    def sent(self, topic: topics.Topic) -> list[Any]:
        """The events of a topic, each once."""
        return list({i: event for name, i, event in self.outputs() if name == topic.name}.values())

    def loop(self) -> service_pb.GetLoopResponse:
        return self.ask("GetLoop")

    def ask(self, method: str, monitor: str | None = None) -> Any:
        request = getattr(service_pb, f"{method}Request")(monitor=monitor or self.scene.name)
        return call(getattr(self.monitor, method), request, timeout_s=CALL_TIMEOUT_S)

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=CALL_TIMEOUT_S)
        connection.request("GET", path)
        response = connection.getresponse()
        try:
            return response.status, response.read()
        finally:
            connection.close()

    # --- what the neighbours do ---
    def pass_time(self, hour: float) -> None:
        """Something becomes known at this hour in every partition of both streams."""
        keys = [f"tick-{hour}-{i}" for i in range(40)]
        self.send(*(self.scene.a_schedule(key, hour) for key in keys))
        self.send(*(self.scene.an_arrival(key, hour, 0.0) for key in keys))

    def predict(self, hour: int, *, drifted: bool, canary: bool = False, **fields: Any) -> None:
        """An hour of answers by v1, good ones, and their outcomes; a canary v2 does better."""
        dice, messages = random.Random(hour), []
        for i in range(ROWS_PER_HOUR):
            flight, late = f"f-{hour}-{i}", dice.random() < 0.4
            features = [dice.gauss(2.0 * drifted, 1), dice.gauss(0, 1)]
            score = 0.5 + (0.25 if late else -0.25) * dice.random()
            answer = {"features": features, "score": score, **fields}
            if canary:
                better = 0.9 if late else 0.1
                answer["shadow"] = (2, better)
            messages.append(self.scene.a_prediction(flight, hour + i / ROWS_PER_HOUR, **answer))
            messages.append(self.scene.an_arrival(flight, hour + 1, 60.0 if late else 0.0))
        self.send(*messages)

    def first_version_serves(self) -> None:
        self.send(self.scene.a_registered_version(1), self.scene.a_rollout(1, 1))

    def drift(self) -> None:
        """Two hours of inputs that v1 was not trained on, and the time to judge them."""
        for hour in (0, 1):
            self.predict(hour, drifted=True)
        self.pass_time(2.5)


@pytest.fixture
def platform(kafka_server: str, tmp_path: Path) -> Iterator[Platform]:
    platform = Platform(kafka_server, tmp_path)
    yield platform
    platform.close()


def incident_id(platform: Platform) -> str:
    return cause_id(platform.scene.name, "drift", 1, at_us(2))


def test_drift_retrains_once_and_a_better_canary_is_promoted(platform: Platform):
    platform.start()
    platform.wait_ready()
    with pytest.raises(NotFound, match="DEFINITION_UNKNOWN"):
        platform.loop()
    platform.apply()
    platform.first_version_serves()
    platform.drift()
    platform.wait_lag_0()

    # At lag 0 all that is due was judged and sent: nothing is waited for here.
    verdicts = platform.sent(topics.MONITOR_VERDICTS)
    assert [False, True] == [one.drift.alarmed for one in verdicts if one.HasField("drift")]
    (request,) = platform.sent(topics.TRAINER_REQUESTS)
    assert (incident_id(platform), platform.scene.name, at_us(2)) == (
        request.incident_id,
        request.recipe,
        request.known_until_us,
    )
    assert not platform.loop().settled
    assert at_us(2.5) == platform.loop().evaluated_until_us

    run_id = request.request_id
    platform.send(platform.scene.a_registered_version(2, run_id=run_id))
    platform.send(platform.scene.a_gate(2, passed=True), platform.scene.a_rollout(2, 1, 2))
    platform.wait_lag_0()
    assert platform.loop().settled
    assert 2 == platform.loop().rollout_generation_by_endpoint[platform.scene.name]
    assert events_pb.INCIDENT_STATE_CANARY == platform.ask("ListIncidents").incidents[0].state

    for hour in (3, 4):
        platform.predict(hour, drifted=True, canary=True, rollout_generation=2)
    platform.pass_time(9)
    platform.wait_lag_0()
    (canary,) = [v.canary for v in platform.sent(topics.MONITOR_VERDICTS) if v.HasField("canary")]
    assert (2, 2, events_pb.CANARY_DECISION_PROMOTE) == (
        canary.canary_version,
        canary.rollout_generation,
        canary.decision,
    )
    assert canary.e_better >= 20
    assert not platform.loop().settled

    platform.send(platform.scene.a_rollout(3, 2))
    platform.wait_lag_0()
    assert platform.loop().settled
    (incident,) = platform.ask("ListIncidents").incidents
    assert "retrained v2, promoted" == incident.action
    assert incident.promoted_at_us
    assert 1 == len(platform.sent(topics.TRAINER_REQUESTS))


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_kill_at_any_step_of_sending_has_one_effect(platform: Platform, failpoint: str):
    platform.apply()
    platform.first_version_serves()
    platform.drift()
    platform.start(fail=f"{failpoint}:1:kill")
    platform.wait_killed()
    before = platform.outputs()
    platform.start()
    platform.wait_ready()
    platform.wait_lag_0()

    after = platform.outputs()
    values = {ce_id: event.SerializeToString() for _, ce_id, event in after}
    assert all(values[ce_id] == event.SerializeToString() for _, ce_id, event in after)
    repeats = [ce_id for ce_id, times in Counter(i for _, i, _ in after).items() if times > 1]
    assert {ce_id for _, ce_id, _ in before} == set(repeats), "what was sent is sent again"
    (request,) = platform.sent(topics.TRAINER_REQUESTS)
    (incident,) = platform.sent(topics.MONITOR_INCIDENTS)
    assert incident_id(platform) == incident.incident_id == request.incident_id
    assert cause_id("run", incident.incident_id) == request.request_id == incident.run_id


def test_quality_survives_kill_and_restart(platform: Platform):
    platform.start()
    platform.apply()
    platform.first_version_serves()
    for hour in range(3):
        platform.predict(hour, drifted=False)
        if hour == 1:
            platform.wait_lag_0()
            platform.child.kill()
            platform.start()
    platform.predict(
        2, drifted=False, endpoint=platform.scene.static, door=inference_pb.DOOR_TENSORS, score=0.5
    )
    platform.wait_ready()
    platform.wait_lag_0()
    quality = platform.ask("GetQuality")

    rows = 3 * ROWS_PER_HOUR
    assert (rows, rows) == (quality.predictions, quality.labelled)
    auc = {(one.endpoint, one.month, one.version): one.auc for one in quality.slices}
    assert auc[platform.scene.name, "2013-03", 1] == 1.0
    assert auc[platform.scene.static, "", 0] == 0.5
    assert [] == platform.sent(topics.TRAINER_REQUESTS)

    assert 0 == platform.stop()
    platform.start()
    platform.wait_ready()
    assert quality == platform.ask("GetQuality")


def test_bad_prediction_is_set_aside_and_the_next_is_folded(platform: Platform, set_aside):
    topic = topics.INFERENCE_PREDICTIONS.of(platform.scene.name)
    platform.apply()
    platform.first_version_serves()
    bad = Message(topic, b"bad", b"\xff not a message")
    platform.send(platform.scene.a_prediction("a", 0), bad, platform.scene.a_prediction("b", 0))
    platform.start()
    platform.wait_ready()
    platform.wait_lag_0()

    assert 2 == platform.ask("GetQuality").predictions
    assert [b"\xff not a message"] == [
        each.value for each in set_aside(topics.MONITOR_DEAD_LETTERS, topic)
    ]


@pytest.mark.parametrize("away", [False, True], ids=["running", "restarted"])
def test_predictions_of_a_topic_that_is_made_again_are_folded_from_its_beginning(
    platform: Platform, away: bool
):
    platform.start()
    platform.apply()
    platform.first_version_serves()
    platform.predict(0, drifted=False)
    platform.wait_ready()
    platform.wait_lag_0()
    if away:
        assert 0 == platform.stop()

    platform.make_again(topics.INFERENCE_PREDICTIONS.of(platform.scene.name))
    platform.predict(1, drifted=False)
    platform.predict(2, drifted=False)  # twice as many as were read of the old one
    if away:
        platform.start()
        platform.wait_ready()

    wait_for(lambda: 3 * ROWS_PER_HOUR == platform.ask("GetQuality").predictions)
    wait_for(lambda: 200 == platform.get("/health/ready")[0])


def test_page_and_its_figures_are_served(platform: Platform):
    platform.start()
    platform.wait_ready()
    assert 200 == platform.get("/")[0]
    assert b"monitor.json" in platform.get("/monitor.js")[1]
    assert 404 == platform.get("/../settings.py")[0]

    platform.apply()
    platform.first_version_serves()
    platform.drift()
    platform.wait_lag_0()
    figures = json.loads(platform.get("/monitor.json")[1])
    (monitor,) = [one for one in figures["monitors"] if one["name"] == platform.scene.name]
    assert 2 * ROWS_PER_HOUR == monitor["predictions"]
    assert ["training"] == [one["state"] for one in monitor["incidents"]]
    assert [["flight:hour"]] * 2 == [one["drifted"] for one in monitor["drift"]]
